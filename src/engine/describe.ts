/**
 * What can compute on this machine, and why the rest cannot: the facts behind `dinov2 engine list`.
 *
 * Nothing is loaded or compiled: versions come from files, devices from the system.
 */
import type {EngineDescription} from './engine.js'
import {cpuDevice, cudaDevices} from './machine.js'
import {engines, type EngineName} from './registry.js'

/** Describes all engines, fastest first; the first available one is what `--engine auto` takes. */
export async function describeEngines(): Promise<EngineDescription<EngineName>[]> {
  const devices = {cpu: cpuDevice(), gpus: await cudaDevices()}
  const described: EngineDescription<EngineName>[] = []
  for (const {name, title, describe} of engines) described.push({engine: name, title, ...(await describe(devices))})
  return described
}
