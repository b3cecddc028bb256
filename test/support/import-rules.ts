/**
 * The folders of the program: what each holds, and what it may import. `architecture.test.ts` holds the rules, and
 * `npm run readme` writes the tables of src/README.md from them.
 */

export type FolderRule = {
  /** What the folder holds, for src/README.md. */
  readonly holds: string
  /** Folders whose values may be imported. */
  readonly imports: readonly string[]
  /** Folders of which only types may be imported. */
  readonly types?: readonly string[]
  /** Folders that are loaded by `await import()` alone, so that a command starts quickly. */
  readonly later?: readonly string[]
  /** Whether modules of Node.js may be imported. */
  readonly node: boolean
}

/** The folders of `src`, and `commands`, from the top of the program down to the ground. */
export const folders: Readonly<Record<string, FolderRule>> = {
  commands: {
    holds: 'one class a subcommand: it turns flags into one typed value, calls a task, and writes rows and a report',
    imports: ['cli', 'config'],
    types: ['tasks'],
    later: ['tasks'],
    node: true
  },
  cli: {
    holds: 'the frame of all commands: flags, output, progress, signals, errors, help, completion',
    imports: ['config', 'system'],
    types: ['tasks', 'data'],
    node: true
  },
  tasks: {
    holds: 'the work, by feature, as generators of plain events and rows; it knows nothing of flags, screens or exit codes',
    imports: [
      'model',
      'loss',
      'optim',
      'heads',
      'metrics',
      'curate',
      'search',
      'data',
      'files',
      'render',
      'page',
      'synthetic',
      'tensor',
      'engine',
      'system',
      'config'
    ],
    node: true
  },
  model: {
    holds: 'the vision transformer: blocks, heads, positions, initialization, stochastic depth',
    imports: ['tensor'],
    node: false
  },
  loss: {
    holds: 'DINO, iBOT, KoLeo and feature losses, teacher targets by Sinkhorn–Knopp or centering',
    imports: ['tensor'],
    node: false
  },
  optim: {holds: 'AdamW, schedules, parameter groups, gradient clipping, the EMA of the teacher', imports: ['tensor'], node: false},
  heads: {
    holds: 'heads trained on frozen features: linear classifiers, logistic regression, depth and segmentation, with their losses',
    imports: ['optim', 'loss', 'model', 'tensor'],
    node: false
  },
  metrics: {holds: 'accuracy, mAP, IoU, depth errors, confidence intervals', imports: ['tensor'], node: false},
  curate: {
    holds: 'near-duplicates, k-means, retrieval, balanced sampling, as functions of rows of features',
    imports: ['search', 'tensor', 'config'],
    node: false
  },
  search: {holds: 'nearest neighbours, exact and by graph (HNSW), and the kNN vote', imports: ['config'], types: ['tensor'], node: true},
  data: {
    holds: 'images in: sources, decoding, augmentation, masks, worker threads, targets (depth maps and class maps), statistics',
    imports: ['system', 'tensor', 'config'],
    node: true
  },
  files: {
    holds: 'formats in and out: checkpoints, embeddings, search indexes, run folders',
    imports: ['system', 'tensor', 'config'],
    types: ['model'],
    node: true
  },
  render: {
    holds: 'pictures and pages out: charts, heat maps, overlays, self-contained HTML',
    imports: ['data', 'tensor', 'config'],
    node: true
  },
  page: {
    holds: 'the page of `explore`, which runs in a browser: the map, and the worker in which a model computes',
    imports: ['model', 'heads', 'engine', 'data', 'render', 'search', 'tensor', 'config'],
    node: false
  },
  synthetic: {
    holds: 'sample images drawn by ray marching, and small public photo sets',
    imports: ['system', 'tensor', 'config'],
    types: ['data'],
    node: true
  },
  engine: {
    holds: 'what computes: finding, building, installing, describing and starting one engine a folder',
    imports: ['system', 'tensor', 'config'],
    node: true
  },
  config: {
    holds: 'the settings table, recipes, derived settings; `errors.ts` is the error that a user can mend',
    imports: ['system'],
    types: ['model'],
    node: true
  },
  tensor: {
    holds: 'the one door to TensorFlow.js (`tf.ts`), trees of tensors, seeded random draws, fused operations (`ops/`)',
    imports: [],
    node: false
  },
  system: {
    holds: 'the operating system: whole-or-absent files, paths, child processes, threads, compilation, downloads',
    imports: ['config'],
    node: true
  }
}

/** Files of `config` whose values every folder may use; of the others it may use types alone. */
export const openConfig: ReadonlySet<string> = new Set([
  'src/config/errors.ts',
  'src/config/counted.ts',
  'src/config/nearest.ts',
  'src/config/missing-path.ts',
  'src/config/derived.ts',
  'src/config/renamed.ts',
  'src/config/settings.ts',
  'src/config/read-layers.ts'
])

/** The folders of `src/tasks`: what each holds and which other folders of `src/tasks` it may import. */
export const taskFolders: Readonly<Record<string, {readonly holds: string; readonly imports: readonly string[]}>> = {
  '': {
    holds: 'tasks of one file: export, models, samples, report',
    imports: ['embed', 'train', 'search', 'eval/shared', 'verify', 'onnx']
  },
  train: {holds: 'pretraining and distillation: the loop, the step, teachers, resuming, health, cost estimates', imports: ['embed']},
  embed: {holds: 'opening a backbone; vectors and dense features of images', imports: []},
  search: {holds: 'building an index and searching it', imports: ['embed']},
  curate: {holds: 'the stages of curation over a pool of images or vectors', imports: ['embed', 'search']},
  'eval/shared': {holds: 'what all evaluations share: candidates, sets, scores, intervals, examples', imports: ['embed']},
  'eval/classification': {holds: 'kNN and linear classification', imports: ['embed', 'eval/shared']},
  'eval/retrieval': {holds: 'retrieval within groups', imports: ['embed', 'eval/shared', 'search']},
  'eval/depth': {holds: 'depth heads: training, prediction, evaluation', imports: ['embed', 'eval/shared']},
  'eval/segmentation': {holds: 'segmentation heads: training, prediction, evaluation', imports: ['embed', 'eval/shared']},
  visualize: {
    holds: 'PCA, attention, similarity, depth and segmentation drawn over images',
    imports: ['embed', 'eval/shared', 'eval/depth', 'eval/segmentation', 'search']
  },
  onnx: {
    holds: 'backbones and heads as graphs of ONNX, and the folder around them',
    imports: ['eval/shared', 'eval/classification', 'eval/depth', 'eval/segmentation']
  },
  explore: {
    holds: 'a site that shows a map of images and computes in the browser, and its server',
    imports: ['embed', 'curate', 'search', 'eval/shared', 'eval/classification', 'eval/depth', 'eval/segmentation']
  },
  verify: {holds: 'agreement of an engine with recorded tensors', imports: ['embed', 'train']},
  engine: {holds: 'listing and installing engines', imports: []},
  doctor: {holds: 'what is on this machine, how fast it is, and what would help', imports: []}
}

/** Where each package may be imported. A package that is not named here is not used. */
export const packageHomes: readonly (readonly [name: RegExp, home: RegExp])[] = [
  [/^@tensorflow\/tfjs-(core(\/.*)?|backend-.*)$/, /^src\/tensor\/tf\.ts$/],
  [/^@tensorflow\/tfjs-node.*$/, /^src\/engine\//],
  [/^sharp$/, /^src\/data\/image\/(decode|encode).*\.ts$/],
  [/^hnswlib-node$/, /^src\/search\/hnsw\.ts$/],
  [/^@lancedb\/lancedb$/, /^src\/files\/search-index\/lance-library\.ts$/],
  [/^@oclif\/core$/, /^src\/cli\/oclif\.d\.ts$/],
  [/^pbf$/, /^src\/files\/onnx\/pbf\.d\.ts$/],
  [/^cli-progress$/, /^src\/cli\/progress\.ts$/],
  [/^yaml$/, /^src\/config\//],
  [/^fzstd$/, /^src\/system\/zstd\.ts$/],
  [/^(apache-arrow|parquet-wasm|csv-parse(\/.*)?|tar-stream)$/, /^src\/((files|data)\/|system\/parquet-file\.)/]
]

const list = (names: readonly string[]): string => names.map(name => `\`${name}\``).join(', ')

/** The tables of src/README.md, as Markdown. */
export function tables(): string {
  const rows = Object.entries(folders).map(([name, {holds, imports, types, later}]) => {
    const values = imports.filter(other => !later?.includes(other))
    const parts = [
      values.length ? list(values) : '',
      types?.length ? `types of ${list(types)}` : '',
      later?.length ? `${list(later)} by \`await import()\`` : ''
    ]
    return `| \`${name === 'commands' ? '../commands' : name}\` | ${holds} | ${parts.filter(Boolean).join('; ') || 'nothing'} |`
  })
  const tasks = Object.entries(taskFolders).map(
    ([name, {holds, imports}]) => `| \`tasks${name && `/${name}`}\` | ${holds} | ${imports.length ? list(imports) : 'none'} |`
  )
  return [
    '| folder | holds | may import |',
    '| --- | --- | --- |',
    ...rows,
    '',
    'The folders of `tasks`, and which of each other they may import:',
    '',
    '| folder | holds | may import of `tasks` |',
    '| --- | --- | --- |',
    ...tasks
  ].join('\n')
}

const [begin, end] = ['<!-- tables: written by `npm run readme` from test/support/import-rules.ts -->', '<!-- end of tables -->']

/** `text` of src/README.md with its tables written anew. */
export function withTables(text: string): string {
  const [from, to] = [text.indexOf(begin), text.indexOf(end)]
  if (from < 0 || to < from) throw new Error(`src/README.md lacks the lines ${begin} and ${end}`)
  return `${text.slice(0, from)}${begin}\n\n${tables()}\n\n${text.slice(to)}`
}
