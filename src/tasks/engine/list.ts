/** What can compute here: the facts of `dinov2 engine list`, and as lines for a person. */
import {counted} from '../../config/counted.js'
import {describeEngines} from '../../engine/describe.js'
import type {EngineDescription} from '../../engine/engine.js'

export type EngineList = {
  /** The engine that `--engine auto` takes. */
  readonly auto: string | null
  readonly node: string
  readonly engines: readonly EngineDescription[]
}

/** Looks at the machine; loads and compiles nothing. */
export async function listEngines(): Promise<EngineList> {
  const engines = await describeEngines()
  return {auto: engines.find(({available}) => available)?.engine ?? null, node: process.versions.node, engines}
}

const gibibytes = (bytes: number): string => `${(bytes / 2 ** 30).toFixed(1)} GiB`

/** The list as text, one paragraph an engine. */
export function engineLines({auto, engines}: EngineList): string[] {
  const lines: string[] = []
  for (const {engine, title, available, version, where, devices, reason, command, remarks} of engines) {
    lines.push(`${engine.padEnd(12)}${available ? `${version}, ${title}` : `not here: ${reason}`}`)
    for (const {name, title: maker, memory, cores, bf16, auto: precision} of devices) {
      const facts = [maker, ...(cores === null ? [] : [counted(cores, 'core')]), gibibytes(memory)]
      lines.push(`  ${name.padEnd(10)}${facts.join(', ')}${bf16 ? ', multiplies bf16' : ''}; --precision auto is ${precision}`)
    }
    if (where) lines.push(`  ${'from'.padEnd(10)}${where}`)
    for (const remark of remarks) lines.push(`  ${'note'.padEnd(10)}${remark}`)
    if (command) lines.push(`  ${(available ? 'faster' : 'get it').padEnd(10)}${command}`)
  }
  lines.push(auto ? `--engine auto takes ${auto}` : 'no engine is here')
  return lines
}
