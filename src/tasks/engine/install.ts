/** Installing an engine and proving that it computes: the work of `dinov2 engine install`. */
import {fileURLToPath} from 'node:url'
import {UserError} from '../../config/errors.js'
import {jsonObjectOr} from '../../system/json.js'
import {readyNative} from '../../data/augment/native-crops.js'
import {lastLines, runCommand} from '../../system/run-command.js'
import type {SmokeReport} from '../../engine/smoke.js'
import type {InstallOptions} from '../../engine/engine.js'
import {engineOf, type EngineName} from '../../engine/registry.js'

export type InstallRequest = InstallOptions & {readonly engine: EngineName}

export type InstallReport = {
  readonly engine: EngineName
  readonly version: string
  readonly where: string
  readonly device: string
  readonly precision: string
  readonly threads: number
}

/**
 * Installs what is missing, then computes in a process of its own and compares with the known result. Quick when all
 * is there. Errors of status 5: what stood in the way, and what to do.
 */
export async function installEngine({engine, ...options}: InstallRequest): Promise<InstallReport> {
  const installation = installationOf(engine)
  const where = await installation.install(options)
  if (installation.compilesAddons) await readyNative(options.note)
  const {version, device, precision, threads} = await smokeTest(engine, options.cuda ? 'cuda' : 'auto')
  return {engine, version, where, device, precision, threads}
}

/** What `installEngine` would do, a sentence each. Raises UserError as it does where there is nothing to install. */
export async function planInstallation({
  engine,
  cuda,
  force
}: Pick<InstallRequest, 'engine' | 'cuda' | 'force'>): Promise<readonly string[]> {
  return installationOf(engine).plan({cuda, force})
}

/** How an engine gets onto a machine. Raises UserError, exit 2, where it comes with the package. */
function installationOf(engine: EngineName): NonNullable<ReturnType<typeof engineOf>['installation']> {
  const {installation} = engineOf(engine)
  if (!installation)
    throw new UserError(`The ${engine} engine comes with the package; there is nothing to install.`, {exit: 2, code: 'USAGE'})
  return installation
}

/** A product and a gradient with known values, computed by the engine in another process. */
async function smokeTest(engine: string, device: string): Promise<SmokeReport> {
  const program = fileURLToPath(new URL('../../engine/smoke.js', import.meta.url))
  const {status, stdout, log} = await runCommand(process.execPath, [program, engine, device], {timeout: 300_000})
  const fail = (what: string): UserError =>
    new UserError(`The ${engine} engine is installed but ${what}`, {
      exit: 5,
      code: 'NO_ENGINE',
      hint: `run \`dinov2 engine install ${engine} --force\``
    })
  if (status !== 0) throw fail(`does not start:\n${lastLines(log)}`)
  const report = (jsonObjectOr(stdout.trim().split('\n').at(-1)) ?? {}) as SmokeReport
  if (String(report.product) !== '7,10,15,22' || String(report.gradient) !== '2,4,6,8')
    throw fail(`computes wrongly: [1 2; 3 4]² gave ${String(report.product)}, the gradient of Σx² gave ${String(report.gradient)}`)
  return report
}
