/** Going on with a run in another number of processes. */
import type {Settings} from '../../config/table.js'
import {isObject, jsonObjectOr} from '../../system/json.js'

/**
 * How a step is shared among processes, then and now. As many images a step in other shares are the same course, but
 * for what looks at the images of one process: KoLeo, and stochastic depth.
 */
export function compareShares(
  metadata: Readonly<Record<string, string>>,
  {train, dino, student}: Settings,
  before: number,
  now: number
): {course: string[]; digits: string[]} {
  const section = jsonObjectOr(metadata['settings'])?.['train']
  const recorded = isObject(section) ? section['batch_size_per_gpu'] : undefined
  const each = typeof recorded === 'number' ? recorded : train.batch_size_per_gpu
  const of = (n: number): string => (n === 1 ? '' : ` in each of ${n} processes`)
  if (each * before !== train.batch_size_per_gpu * now)
    return {
      course: [`train.batch_size_per_gpu was ${each}${of(before)} and is ${train.batch_size_per_gpu}${of(now)}`],
      digits: []
    }
  if (before === now) return {course: [], digits: []}
  const change = `there ${before === 1 ? 'was 1 process' : `were ${before} processes`} and there ${now === 1 ? 'is 1' : `are ${now}`}`
  const alone = [
    ...(dino.koleo_loss_weight > 0 && train.koleo === 'process' ? ['KoLeo looks for neighbours within a process (train.koleo)'] : []),
    ...(student.drop_path_rate > 0 ? ['stochastic depth is drawn in each process by itself (student.drop_path_rate)'] : [])
  ]
  return alone.length > 0 ? {course: [`${change}, and ${alone.join(', and ')}`], digits: []} : {course: [], digits: [change]}
}
