/**
 * tfjs-core's own operator suites, run on one of our engines:
 * `node dist/test/conformance/run.js [--engine torch] [--device D] [--only PATTERN] [--verbose] [--json]`.
 *
 * Every specification ends as passed, failed or skipped. Skipped are those that need a kernel the engine does not
 * register, or tensors that it does not hold (strings, complex numbers): the reason is printed with the count. Exit
 * status 1 when something failed.
 */
import {createRequire} from 'node:module'
import {parseArgs} from 'node:util'
import {startEngine} from '../../src/engine/start.js'
import type {AnyEngine} from '../../src/engine/registry.js'
import {env} from '../../src/tensor/tf.js'
import {EXEMPT} from './exempt.js'
import {suiteFiles, suiteLoader} from './suites.js'

export type Tally = {passed: number; failed: number; skipped: Map<string, number>}
export type Failure = {readonly suite: string; readonly specification: string; readonly message: string}
export type Conformance = {
  readonly engine: string
  readonly suites: ReadonlyMap<string, Tally>
  readonly passed: number
  readonly failed: number
  readonly skipped: number
  readonly failures: readonly Failure[]
}

type Spec = {fullName: string; status: string; failedExpectations: {message: string; stack?: string}[]; pendingReason?: string}
type Jasmine = {
  installGlobals(): void
  getEnv?(): unknown
  jasmine: {
    getEnv(): {configure(options: object): void; addReporter(reporter: object): void; execute(): Promise<unknown>}
    DEFAULT_TIMEOUT_INTERVAL: number
  }
}

const PLACEHOLDER = 'end of suite'

/** Why a specification counts as skipped, from the message of its failure; null when the failure is one. */
export function reasonToSkip(messages: readonly string[]): string | null {
  for (const message of messages) {
    const kernel = /Kernel '(\w+)' not registered for backend/.exec(message)?.[1]
    if (kernel) return `no kernel ${kernel}`
    const type = /holds no tensors of type (\w+)/.exec(message)?.[1]
    if (type) return `no tensors of type ${type}`
  }
  return null
}

/**
 * The recorded reason why the torch engine differs; the name of the environment, which stands between suite and
 * specification, is left out.
 */
const exemption = (specification: string): string | null => EXEMPT[specification.replace(/ torch \{\}/, '')] ?? null

/** Runs `files` on `engine` and counts. `progress` hears the name of each suite before it starts. */
export async function conformance(engine: AnyEngine, files: readonly string[], device = 'auto'): Promise<Conformance> {
  await startEngine({engine, device, precision: 'fp32', note: () => undefined})
  env().set('IS_TEST', true)
  const jasmineCore = createRequire(import.meta.url)('jasmine-core') as Jasmine
  jasmineCore.installGlobals()
  const runner = jasmineCore.jasmine.getEnv()
  jasmineCore.jasmine.DEFAULT_TIMEOUT_INTERVAL = 20_000
  runner.configure({random: false, forbidDuplicateNames: false, failSpecWithNoExpectations: false})
  const load = suiteLoader(engine)
  const suites = new Map<string, Tally>()
  for (const file of files) {
    suites.set(file, {passed: 0, failed: 0, skipped: new Map()})
    describe(`${file}|`, () => {
      load(file)
      // jasmine refuses an empty suite, and some hold nothing but tests for browsers.
      it(PLACEHOLDER, () => pending(PLACEHOLDER))
    })
  }
  const failures: Failure[] = []
  runner.addReporter({
    specDone({fullName, status, failedExpectations, pendingReason}: Spec) {
      const [suite = '', specification = ''] = fullName.split('| ')
      if (specification === PLACEHOLDER) return
      const tally = suites.get(suite)!
      if (status === 'passed') return void tally.passed++
      const messages = failedExpectations.map(({message}) => message)
      const reason =
        status === 'failed'
          ? (reasonToSkip(messages) ?? (engine === 'torch' ? exemption(specification) : null))
          : pendingReason || 'switched off in tfjs-core'
      if (reason) return void tally.skipped.set(reason, (tally.skipped.get(reason) ?? 0) + 1)
      tally.failed++
      failures.push({suite, specification, message: messages.join('\n')})
    }
  })
  await runner.execute()
  const sum = (pick: (tally: Tally) => number): number => [...suites.values()].reduce((total, tally) => total + pick(tally), 0)
  return {
    engine,
    suites,
    passed: sum(tally => tally.passed),
    failed: sum(tally => tally.failed),
    skipped: sum(tally => [...tally.skipped.values()].reduce((a, b) => a + b, 0)),
    failures
  }
}

async function main(): Promise<void> {
  const {values} = parseArgs({
    options: {
      engine: {type: 'string', default: 'torch'},
      device: {type: 'string', default: 'auto'},
      only: {type: 'string'},
      verbose: {type: 'boolean'},
      json: {type: 'boolean'}
    }
  })
  const only = values.only ? new RegExp(values.only) : /./
  const result = await conformance(
    values.engine as AnyEngine,
    suiteFiles().filter(file => only.test(file)),
    values.device
  )
  if (values.json)
    process.stdout.write(
      `${JSON.stringify({...result, suites: Object.fromEntries([...result.suites].map(([file, tally]) => [file, {...tally, skipped: Object.fromEntries(tally.skipped)}]))})}\n`
    )
  else {
    for (const [file, {passed, failed, skipped}] of result.suites) {
      const reasons = [...skipped].map(([reason, count]) => `${count} ${reason}`).join(', ')
      if (passed + failed + skipped.size > 0)
        process.stdout.write(
          `${file.padEnd(48)} ${String(passed).padStart(4)} passed ${String(failed).padStart(3)} failed  ${reasons ? `skipped: ${reasons}` : ''}\n`
        )
    }
    for (const {suite, specification, message} of result.failures)
      process.stdout.write(`FAIL ${suite}: ${specification}\n${values.verbose ? message : message.slice(0, 400)}\n`)
    process.stdout.write(`${result.engine}: ${result.passed} passed, ${result.failed} failed, ${result.skipped} skipped\n`)
  }
  process.exitCode = result.failed > 0 ? 1 : 0
}

if (process.argv[1]?.endsWith('conformance/run.js')) await main()
