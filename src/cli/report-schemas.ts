/**
 * JSON Schemas of what commands report under `--json`, of the rows that they write as JSON Lines, of image lists and
 * of errors. Further properties may come with later versions; those that are required stay.
 */
import {anything, whole, either, flag, list, maybe, number, object, said, mapOf, text, type JsonSchema} from '../config/json-schema.js'

const engine = object({engine: text, version: text, device: text, precision: text, threads: whole})

/** A model that `--dry-run` found missing, and that would be downloaded. */
const missing = object({model: text, url: text, folder: text}, {bytes: whole})

/** What a command that was asked for `--dry-run` would read, compute and write. */
const plan = object({
  reads: list(object({set: text}, {images: whole, bytes: whole})),
  models: list(object({model: text, parameters: whole, memory: whole})),
  files: list(object({file: text, bytes: whole})),
  downloads: list(missing),
  computes: text,
  writes: list(text)
})

const training = object(
  {run: text, step: whole, finished: flag},
  {
    checkpoint: text,
    model: text,
    health: object({healthy: flag, words: text}),
    worth: object({fell: flag, words: text}),
    teacher_scores: mapOf(number)
  }
)
const processCost = object({state: number, step: number, tensors: number, sent: number})
const several = object({count: whole, ddp: processCost, fsdp: processCost})
const cost = object({machine: text, flopsPerStep: number}, {estimated: text, several})

const interval = list(number, 'Low and high end of the 95 % bootstrap interval.')
const score = object({features: text, set: text, images: whole, intervals: mapOf(either(interval, anything))})
const difference = object({
  ...{features: text, over: text, set: text, measure: text},
  ...{better: {enum: ['higher', 'lower']}, mean: number, significant: flag}
})
const evaluation = (task: string): JsonSchema =>
  either(
    object({task: {const: task}, fingerprint: maybe(text), scores: list(score), differences: list(difference), notes: list(text)}),
    plan
  )

const curation = object(
  {
    ...{pool: whole, kept: whole, rejected: whole, unreadable: whole, repeated: whole, finished: flag},
    stages: list(object({stage: text, before: whole, after: whole, seconds: number}))
  },
  {materialized: object({folder: text, files: whole, missing: whole}), engine}
)
const featureShard = object({
  ...{shard: object({index: whole, count: whole}), pool: whole, images: whole, unreadable: whole, files: list(text), finished: flag}
})
const picture = (properties: Readonly<Record<string, JsonSchema>>, optional: Readonly<Record<string, JsonSchema>> = {}): JsonSchema =>
  either(object({output: text, ...properties}, optional), plan)
const index = object(
  {output: text, metric: text, rows: whole, dim: whole, added: whole, replaced: whole, removed: whole, fingerprint: maybe(text)},
  {kind: text, ef: whole, backend: text}
)
const download = object({name: text, url: text, path: text, licence: text, fetched: flag}, {bytes: whole, sha256: text, recorded: flag})

/** Reports, by the command; `curate` stands for its stages too. */
const reports: Readonly<Record<string, JsonSchema>> = {
  completion: object({shell: text, commands: whole, script: text}),
  curate: either(curation, featureShard, plan),
  'depth-eval': evaluation('depth'),
  distill: either(training, cost, object({download: missing}), object({students: list(anything)}), list(cost)),
  doctor: object({
    ...{node: text, platform: text, cpu: object({instructions: list(text)}), memory: object({total: whole, free: whole})},
    ...{engines: list(object({engine: text, available: flag})), gpu: object({driver: maybe(text), devices: list(anything)})},
    ...{compiler: maybe(text), python: maybe(text), folders: list(object({path: text, bytes: whole}))}
  }),
  embed: either(
    object({
      ...{output: text, format: text, finished: flag, rows: whole, resumed: whole, refused: whole, dim: whole, fingerprint: maybe(text)},
      ...{batch: whole, seconds: number, imagesPerSecond: maybe(number), waitingForImages: maybe(number), engine}
    }),
    object({images: whole}, {seconds: number, imagesPerSecond: number, memory: number, download: missing})
  ),
  'engine install': object({engine: text, version: text, where: text, device: text, precision: text, threads: whole}),
  'engine list': anything,
  'engine verify': object({golden: text, passed: whole, failed: whole, checks: list(object({part: text, name: text, pass: flag}))}),
  explore: either(
    object({
      ...{output: text, images: whole, pictures: whole, clusters: whole, labels: whole, duplicates: whole, contradicted: whole},
      ...{model: maybe(text), engine}
    }),
    object({served: text}),
    plan
  ),
  export: either(
    object({source: text, output: text, format: text, tensors: whole, parameters: whole, bytes: whole, notes: list(text)}),
    object({download: missing})
  ),
  index: either(index, plan),
  'knn-eval': evaluation('knn'),
  'linear-eval': evaluation('linear'),
  'models list': list(object({name: text})),
  'models pull': list(download),
  'predict classify': either(object({images: whole, finished: flag}, {output: text, refused: whole}), plan),
  'predict depth': either(object({images: whole}), plan),
  'predict segment': either(object({images: whole}, {masks: text, finished: flag}), plan),
  pretrain: either(training, cost, object({download: missing})),
  report: either(
    object({output: text, runs: list(object({run: text, steps: whole, losses: mapOf(anything), health: list(anything)}))}),
    plan
  ),
  'retrieval-eval': evaluation('retrieval'),
  'samples draw': object(
    {output: text, classes: list(text)},
    {train: whole, val: whole, size: whole, seed: whole, bytes: whole, sha256: text}
  ),
  'samples pull': anything,
  schema: anything,
  search: either(object({queries: whole, rows: whole}, {output: text, refused: whole, html: text, missing: whole, finished: flag}), plan),
  'seg-eval': evaluation('segmentation'),
  'visualize attention': picture({images: whole, leftOut: whole, size: whole, block: whole, heads: whole, onPatches: list(number)}),
  'visualize depth': picture({images: whole, shown: list(object({id: text, low: number, high: number}))}),
  'visualize match': either(object({images: list(text), mutual: whole, matches: whole}), plan),
  'visualize neighbours': picture({queries: whole, pictures: whole, missing: whole}, {sameLabel: number}),
  'visualize pca': picture({images: whole, leftOut: whole, size: whole, patches: whole, explained: list(number), notes: list(text)}),
  'visualize segment': picture({images: whole, classes: list(text), confidence: list(number)}),
  'visualize similarity': picture({images: whole, leftOut: whole, size: whole, best: list(object({cosine: number}))})
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

/** The schema of a command's report or rows, of `list` or of `error`; undefined where there is none. */
export function outputSchema(name: string, kind: 'report' | 'rows'): JsonSchema | undefined {
  if (name === 'list') return listedImage
  if (name === 'error') return failure
  const known = kind === 'rows' ? rows : reports
  return known[name] ?? (name.startsWith('curate ') ? known['curate'] : undefined)
}
