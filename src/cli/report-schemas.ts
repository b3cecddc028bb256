/**
 * JSON Schemas of what commands report under `--json`, of the rows that they write as JSON Lines, of image lists and
 * of errors. Properties that are required stay in later versions; further ones may come.
 *
 * Schemas of reports and errors are closed: they name every property that this version writes. Those of rows and lists
 * are open, because the columns of the user's own lists ride along, and so are the stages of curation, each of which
 * counts what it does.
 */
import {anything, whole, either, flag, list, maybe, number, object, said, mapOf, text, type JsonSchema} from '../config/json-schema.js'
import {depthErrorParts, evaluationReports, measured} from './evaluation-schemas.js'
import {cost, device, engine, engineFound, missing, plan, training} from './report-parts.js'

const curation = object(
  {
    ...{pool: whole, kept: whole, rejected: whole, unreadable: whole, repeated: whole, finished: flag},
    stages: list({...object({stage: text, before: whole, after: whole, seconds: number}), additionalProperties: true})
  },
  {
    output: text,
    rejectedRows: text,
    materialized: object({how: text, folder: text, files: whole, missing: whole}),
    engine
  }
)
const featureShard = object({
  ...{shard: object({index: whole, count: whole}), pool: whole, images: whole, unreadable: whole, files: list(text), finished: flag}
})
const picture = (properties: Readonly<Record<string, JsonSchema>>, optional: Readonly<Record<string, JsonSchema>> = {}): JsonSchema =>
  either(object({output: text, ...properties}, optional), plan)
const index = object(
  {output: text, metric: text, rows: whole, dim: whole, added: whole, replaced: whole, removed: whole, fingerprint: maybe(text)},
  {
    ...{kind: text, ef: whole, backend: text, recall: maybe(object({k: whole, value: number, queries: whole}))},
    lists: object({partitions: whole, pieces: whole, trained: whole, probes: whole, refine: whole})
  }
)
const download = object({name: text, url: text, path: text, licence: text, fetched: flag}, {bytes: whole, sha256: text, recorded: flag})

/** Reports, by the command; `curate` stands for its stages too. */
const reports: Readonly<Record<string, JsonSchema>> = {
  completion: object({shell: text, commands: whole, script: text}),
  curate: either(curation, featureShard, plan),
  distill: either(
    training,
    cost,
    object({download: missing}),
    object({students: list(either(cost, training))}),
    list(either(cost, training))
  ),
  doctor: object({
    ...{node: text, platform: text, cpu: object({instructions: list(text)}, device), memory: object({total: whole, free: whole})},
    ...{engines: list(engineFound), gpu: object({driver: maybe(text), devices: list(object({}, device))})},
    ...{compiler: maybe(text), python: maybe(text), nativeImages: flag, graphs: maybe(text)},
    ...{folders: list(object({path: text, bytes: whole})), noSpeed: maybe(text), advice: list(object({why: text, command: text}))},
    speed: maybe(object({engine: text, device: text, precision: text, threads: whole, imagesPerSecond: number}))
  }),
  embed: either(
    object({
      ...{output: text, format: text, finished: flag, rows: whole, resumed: whole, refused: whole, dim: whole, fingerprint: maybe(text)},
      ...{batch: whole, seconds: number, imagesPerSecond: maybe(number), waitingForImages: maybe(number), engine}
    }),
    object({images: whole}, {dim: whole, seconds: number, imagesPerSecond: number, memory: number, engine, download: missing})
  ),
  'engine install': object({engine: text, version: text, where: text, device: text, precision: text, threads: whole}),
  'engine list': object({auto: maybe(text), node: text, engines: list(engineFound)}),
  'engine verify': object({
    ...{golden: text, passed: whole, failed: whole, engine: text, version: text, device: text, precision: text, threads: whole},
    checks: list(object({part: text, name: text, pass: flag, measure: text, error: measured, limit: measured}))
  }),
  ...evaluationReports,
  explore: either(
    object({
      ...{output: text, images: whole, pictures: whole, clusters: whole, labels: whole, duplicates: whole, contradicted: whole},
      ...{model: maybe(text), engine}
    }),
    object({served: text}),
    plan
  ),
  export: either(
    object(
      {source: text, output: text, format: text, tensors: whole, parameters: whole, bytes: whole, notes: list(text)},
      {config: mapOf(anything)}
    ),
    object({download: missing})
  ),
  index: either(index, plan),
  'models list': list(
    object(
      {name: text, kind: text, backbone: text, registers: whole, file: text, path: text, licence: text, about: text, url: text},
      {bytes: whole, sha256: text, here: text}
    )
  ),
  'models pull': list(download),
  'predict classify': either(object({images: whole, finished: flag}, {output: text, refused: whole}), plan),
  'predict depth': either(object({images: whole}, {output: text, refused: whole, finished: flag}), plan),
  'predict segment': either(object({images: whole}, {masks: text, refused: whole, finished: flag}), plan),
  pretrain: either(training, cost, object({download: missing})),
  report: either(
    object({
      output: text,
      runs: list(object({run: text, steps: whole, losses: mapOf(anything), health: list(object({good: flag, text}))}))
    }),
    plan
  ),
  'samples draw': object(
    {output: text, classes: list(text)},
    {pictures: whole, train: whole, val: whole, size: whole, seed: whole, bytes: whole, sha256: text}
  ),
  'samples pull': either(
    list(object({name: text, about: text, licence: text, home: text, archives: list(object({url: text, bytes: whole, sha256: text}))})),
    object({set: text, output: text}, {bytes: whole, licence: text, home: text, classes: whole, train: whole, val: whole})
  ),
  schema: anything,
  search: either(object({queries: whole, rows: whole}, {output: text, refused: whole, html: text, missing: whole, finished: flag}), plan),
  'visualize attention': picture(
    {images: whole, leftOut: whole, size: whole, block: whole, heads: whole, registers: whole, onPatches: list(number)},
    {fingerprint: text}
  ),
  'visualize depth': picture({
    images: whole,
    shown: list(object({id: text, low: number, high: number}, {errors: object({}, depthErrorParts)}))
  }),
  'visualize match': either(
    object({images: list(text), mutual: whole, matches: whole}, {size: whole, fingerprint: text, output: text}),
    plan
  ),
  'visualize neighbours': picture({queries: whole, pictures: whole, missing: whole}, {sameLabel: number}),
  'visualize pca': picture(
    {images: whole, leftOut: whole, size: whole, patches: whole, explained: list(number), notes: list(text)},
    {foreground: measured, fingerprint: text}
  ),
  'visualize segment': picture({images: whole, classes: list(text), confidence: list(number)}),
  'visualize similarity': picture(
    {images: whole, leftOut: whole, size: whole, best: list(object({cosine: number}, {column: whole, row: whole}))},
    {patch: list(whole), live: flag, fingerprint: text}
  )
}

/** An image of a list, as every command that takes images reads it; other properties ride along. */
const listedImage = object(
  {path: said(text, 'Relative to the list; on stdin to the working directory.')},
  {
    id: either(text, number),
    path_base64: said(text, 'The whole path where it is not UTF-8.'),
    range: said({type: 'array', items: whole, minItems: 2, maxItems: 2}, 'Offset and size in bytes of a member of a tar shard.'),
    row: said(whole, 'The row of a Parquet file.'),
    label: said(either(text, number, flag), 'The class.'),
    group: said(either(text, number), 'What retrieval-eval looks for.'),
    depth: said(text, 'The depth map, relative to the list.'),
    mask: said(text, 'The mask, relative to the list.')
  },
  'A line of a list of images.'
)

const item = object({id: text, set: text, features: text}, {}, 'What became of one item (--predictions).')
const curated = object({id: text, path: text, reason: text}, {stage: text, label: anything, row: whole, range: list(whole)})

/** Rows, by the command that writes them as JSON Lines. */
const rows: Readonly<Record<string, JsonSchema>> = {
  curate: curated,
  embed: object(
    {id: text, vector: list(number)},
    {dinov2: anything},
    'A row of --format jsonl; the first one says how the vectors were made.'
  ),
  search: object({query: text, rank: whole, id: text, fields: mapOf(anything)}, {similarity: number, distance: number}),
  'predict classify': object({id: text}),
  'predict depth': object({id: text}),
  'predict segment': object({id: text}),
  'knn-eval': item,
  'linear-eval': item,
  'retrieval-eval': item,
  'depth-eval': item,
  'seg-eval': item
}

/** What `--json` gives on failure. */
const failure = object({error: object({code: text, message: text}, {hint: text})})

/** Names that `dinov2 schema` takes besides those of commands. */
export const schemaNames = ['settings', 'list', 'error'] as const

/** The same, refusing properties that are not named; a schema that says of itself what else it takes stays so. */
function closed(schema: JsonSchema): JsonSchema {
  const {properties, additionalProperties, items, anyOf} = schema as {
    readonly properties?: Readonly<Record<string, JsonSchema>>
    readonly additionalProperties?: JsonSchema | boolean
    readonly items?: JsonSchema
    readonly anyOf?: readonly JsonSchema[]
  }
  const named = properties && Object.fromEntries(Object.entries(properties).map(([name, one]) => [name, closed(one)]))
  return {
    ...(properties ? {additionalProperties: false} : {}),
    ...schema,
    ...(named ? {properties: named} : {}),
    ...(typeof additionalProperties === 'object' ? {additionalProperties: closed(additionalProperties)} : {}),
    ...(items ? {items: closed(items)} : {}),
    ...(anyOf ? {anyOf: anyOf.map(closed)} : {})
  }
}

/** The schema of a command's report or rows, of `list` or of `error`; undefined where there is none. */
export function outputSchema(name: string, kind: 'report' | 'rows'): JsonSchema | undefined {
  if (name === 'list') return listedImage
  if (name === 'error') return closed(failure)
  const known = kind === 'rows' ? rows : reports
  const found = known[name] ?? (name.startsWith('curate ') ? known['curate'] : undefined)
  return found && kind === 'report' ? closed(found) : found
}
