/** What kind each part of a recording's JSON files must have, so that what computes with them meets nothing else. */
import {UserError} from '../../config/errors.js'
import {isObject, parseJsonObject, type JsonObject} from '../../system/json.js'

/** Of one value, of every part of a list (`each`) or of an object (`values`), or of an object's named parts. */
export type RecordedKind =
  | 'number'
  | 'text'
  | 'flag'
  | 'pair'
  | {readonly each: RecordedKind}
  | {readonly values: RecordedKind}
  | {readonly parts: Readonly<Record<string, RecordedKind>>}
  | {readonly maybe: RecordedKind}

const isNumber = (value: unknown): value is number => typeof value === 'number' && Number.isFinite(value)

/** The place of the first part that is of another kind, undefined where there is none. */
function wrongPlace(value: unknown, kind: RecordedKind, place: string): string | undefined {
  const first = (parts: readonly (readonly [string, unknown, RecordedKind])[]): string | undefined => {
    for (const [name, part, its] of parts) {
      const wrong = wrongPlace(part, its, place === '' ? name : `${place}.${name}`)
      if (wrong !== undefined) return wrong
    }
    return undefined
  }
  if (typeof kind === 'string') {
    const fits = {
      number: isNumber(value),
      text: typeof value === 'string',
      flag: typeof value === 'boolean',
      pair: Array.isArray(value) && value.length === 2 && value.every(isNumber)
    }
    return fits[kind] ? undefined : place
  }
  if ('maybe' in kind) return value === undefined || value === null ? undefined : wrongPlace(value, kind.maybe, place)
  if ('each' in kind) return Array.isArray(value) ? first(value.map((part: unknown, i) => [String(i), part, kind.each])) : place
  if (!isObject(value)) return place
  if ('values' in kind) return first(Object.entries(value).map(([name, part]) => [name, part, kind.values]))
  return first(Object.entries(kind.parts).map(([name, its]) => [name, value[name], its]))
}

/** Parses a file of a recording. Throws a `UserError` where it is no JSON object, or a part is of another kind. */
export function parseRecorded(text: string, file: string, kind: RecordedKind): JsonObject {
  let found: JsonObject
  try {
    found = parseJsonObject(text)
  } catch (cause) {
    throw new UserError(`${file} is not JSON: ${(cause as Error).message}`, {code: 'BAD_RECORDING', cause})
  }
  const wrong = wrongPlace(found, kind, '')
  if (wrong === undefined) return found
  throw new UserError(`${file} is not as a recording is: ${wrong} is missing or of another kind than expected.`, {code: 'BAD_RECORDING'})
}

const numbers = (...names: readonly string[]): Readonly<Record<string, RecordedKind>> =>
  Object.fromEntries(names.map(name => [name, 'number'] as const))
const lists = (...names: readonly string[]): Readonly<Record<string, RecordedKind>> =>
  Object.fromEntries(names.map(name => [name, {each: 'number'}] as const))

const vit: RecordedKind = {
  parts: {num_heads: {maybe: 'number'}, interpolate_antialias: {maybe: 'flag'}, interpolate_offset: {maybe: 'number'}}
}
const training: RecordedKind = {
  parts: {
    config: {
      parts: {
        ...numbers('batch', 'local_crops', 'student_temp', 'koleo_weight', 'dino_weight', 'ibot_weight'),
        ...numbers('layerwise_decay', 'patch_embed_lr_mult', 'eps', 'clip_grad'),
        ...lists('lr', 'wd', 'momentum', 'teacher_temp', 'last_layer_lr'),
        betas: 'pair'
      }
    },
    vit,
    centering: 'text',
    separate_ibot_head: 'flag',
    head: {parts: numbers('in_dim', 'out_dim', 'hidden_dim', 'bottleneck_dim', 'nlayers')},
    steps: {each: {values: 'number'}}
  }
}
const groups: RecordedKind = {each: {parts: {name: 'text', lr_multiplier: 'number', wd_multiplier: 'number', is_last_layer: 'flag'}}}

/** `golden.json`. */
export const goldenKind: RecordedKind = {
  parts: {
    vit: {values: vit},
    train: training,
    train_untied: training,
    param_groups: groups,
    param_groups_train_untied: groups,
    schedule: {
      parts: {
        config: {
          parts: {
            ...numbers('base_lr', 'batch', 'epochs', 'epoch_length', 'warmup_epochs', 'min_lr', 'warmup_teacher_temp_epochs'),
            wd: 'pair',
            momentum: 'pair',
            teacher_temp: 'pair'
          }
        },
        values: {parts: lists('at', 'lr', 'wd', 'momentum', 'teacher_temp')}
      }
    }
  }
}

const recordedCase: RecordedKind = {parts: {losses: {values: 'number'}, total: 'number', grad_norms: {values: 'number'}}}

/** `distill.json`. */
export const distillationKind: RecordedKind = {
  parts: {
    ...numbers('lr', 'wd', 'momentum', 'teacher_temp', 'eps', 'clip_grad', 'koleo_weight', 'huber'),
    betas: 'pair',
    student: {parts: numbers('heads')},
    teacher: {parts: numbers('heads')},
    heads: recordedCase,
    features: recordedCase
  }
}
