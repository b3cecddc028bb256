/** Whether a run of training has left anything to go on from. */
import {existsSync, readdirSync} from 'node:fs'
import {join} from 'node:path'

/** Whether the folder of a run, or that of one of its students, has settings. */
export function hasBegun(run: string): boolean {
  const names = existsSync(run) ? readdirSync(run) : []
  return [run, ...names.map(name => join(run, name))].some(folder => existsSync(join(folder, 'config.yaml')))
}
