/**
 * Run as a program of its own by `engine install`: starts the engine that its argument names, multiplies two matrices,
 * takes a gradient, and prints what it found as JSON. A library that does not fit ends this process, not the one that
 * asks.
 */
import {argv} from 'node:process'
import {fileURLToPath} from 'node:url'
import {UserError} from '../config/errors.js'
import type {EngineInfo} from './start.js'
import type {AnyEngine} from './registry.js'

export type SmokeReport = EngineInfo & {readonly product: readonly number[]; readonly gradient: readonly number[]}

async function smoke(engine: AnyEngine, device: string): Promise<SmokeReport> {
  const {startEngine} = await import('./start.js')
  const info = await startEngine({engine, device})
  const {grad, matMul, square, sum, tensor2d} = await import('../tensor/tf.js')
  const x = tensor2d([1, 2, 3, 4], [2, 2])
  const product = [...(await matMul(x, x).data())]
  const gradient = [...(await grad(y => sum(square(y)))(x).data())]
  return {...info, product, gradient}
}

if (argv[1] === fileURLToPath(import.meta.url)) {
  try {
    const report = await smoke(argv[2] as AnyEngine, argv[3] ?? 'auto')
    process.stdout.write(`${JSON.stringify(report)}\n`)
  } catch (error) {
    process.stderr.write(`${error instanceof UserError ? error.message : (error as Error).stack}\n`)
    process.exitCode = 1
  }
}
