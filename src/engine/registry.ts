/** The engines, fastest first: to add one, add its line here. */
import type {Engine, EngineInfoOf, EngineRequestOf} from './engine.js'
import {tensorflowEngine} from './tensorflow/engine.js'
import {torchEngine} from './torch/engine.js'
import {plainEngine, wasmEngine} from './wasm/engine.js'

export const engines = [torchEngine, tensorflowEngine, wasmEngine] as const

export type EngineName = (typeof engines)[number]['name']
/** `cpu` is tfjs's plain JavaScript backend: no flag offers it, tests compare reference implementations on it. */
export type AnyEngine = EngineName | typeof plainEngine.name
export type EngineRequest = EngineRequestOf<'auto' | AnyEngine>
export type EngineInfo = EngineInfoOf<AnyEngine>

/** The engine of a name. */
export const engineOf = (name: AnyEngine): Engine<AnyEngine> => [...engines, plainEngine].find(engine => engine.name === name)!
