/** The recorded schedules and parameter groups: plain numbers, which have to agree to the last digits. */
import {paramGroup} from '../../optim/groups.js'
import {cosine} from '../../optim/schedule.js'
import {check, maxError, type Check} from './checks.js'
import type {Golden, RecordedGroup, RecordedTraining} from './golden.js'

/** What float64 allows. */
const LIMIT = 1e-12

/**
 * Learning rate, weight decay, momentum and teacher temperature at the recorded iterations; then the groups of both
 * training runs.
 */
export function* verifySchedules({index}: Pick<Golden, 'index'>): Generator<Check> {
  const {config, values} = index.schedule
  const total = config.epochs * config.epoch_length
  const warm = config.warmup_teacher_temp_epochs * config.epoch_length
  const schedules = {
    lr: {
      base: config.base_lr * Math.sqrt(config.batch / 1024),
      final: config.min_lr,
      total,
      warmup: config.warmup_epochs * config.epoch_length,
      start: 0
    },
    wd: {base: config.wd[0], final: config.wd[1], total},
    momentum: {base: config.momentum[0], final: config.momentum[1], total},
    teacher_temp: {base: config.teacher_temp[1], final: config.teacher_temp[1], total: warm, warmup: warm, start: config.teacher_temp[0]}
  } as const
  for (const [name, schedule] of Object.entries(schedules)) {
    const computed = values.at.map(step => cosine(schedule, step))
    yield check('schedule', name, 'max', maxError(computed, values[name as keyof typeof schedules]), LIMIT)
  }
  yield* verifyGroups('groups train', index.param_groups, index.train)
  yield* verifyGroups('groups train_untied', index.param_groups_train_untied, index.train_untied)
}

/** Multipliers and last-layer flag of every recorded parameter. */
function* verifyGroups(part: string, recorded: readonly RecordedGroup[], {config}: RecordedTraining): Generator<Check> {
  const depth = 1 + Math.max(...recorded.map(({name}) => Number(/\bblocks\.(\d+)\./.exec(name)?.[1] ?? -1)))
  const rules = {depth, layerwiseDecay: config.layerwise_decay, patchEmbedLrMult: config.patch_embed_lr_mult}
  const groups = recorded.map(({name}) => paramGroup(name, rules))
  const differing = recorded.filter(({is_last_layer}, i) => groups[i]!.last !== is_last_layer).length
  yield check(
    part,
    'lr_multiplier',
    'max',
    maxError(
      groups.map(({lr}) => lr),
      recorded.map(({lr_multiplier}) => lr_multiplier)
    ),
    LIMIT
  )
  yield check(
    part,
    'wd_multiplier',
    'max',
    maxError(
      groups.map(({wd}) => wd),
      recorded.map(({wd_multiplier}) => wd_multiplier)
    ),
    LIMIT
  )
  yield check(part, 'is_last_layer', 'count', differing, 0)
}
