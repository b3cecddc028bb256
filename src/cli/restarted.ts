/** Runs of training whose processes a launcher has started anew (torchrun --max-restarts). */
import {existsSync, readdirSync} from 'node:fs'
import {join} from 'node:path'
import type {Launch} from '../system/launch.js'

/** Whether the processes were started anew after one failed, and the run, or one of its students, has begun. */
export function goesOnAfterRestart(launch: Launch | undefined, run: string | undefined): boolean {
  if (run === undefined || (launch?.restart ?? 0) === 0 || !existsSync(run)) return false
  return [run, ...readdirSync(run).map(name => join(run, name))].some(folder => existsSync(join(folder, 'config.yaml')))
}
