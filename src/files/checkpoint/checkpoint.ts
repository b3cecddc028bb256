/**
 * Opens whatever holds a model: a `.pth` or `.safetensors` file, a Hugging Face or timm folder, one of our run
 * folders, the name of a released model that was pulled, or an id in the cache of the Hugging Face hub. What comes
 * back has Meta's names and reads each tensor only when asked.
 */
import {readdir, stat} from 'node:fs/promises'
import {dirname, join} from 'node:path'
import {UserError} from '../../config/errors.js'
import {isObject, type JsonObject, readJsonObject} from '../../system/json.js'
import {openReader} from '../../system/file-reader.js'
import {missingPathHint} from '../../config/missing-path.js'
import {hubSnapshot, isHubId} from './hub-cache.js'
import {nameTensors, type Dialect} from './key-mapping.js'
import {assertSameModel} from './heads-beside.js'
import {openPth} from './pth.js'
import {fetchMissing, findModelFile, mayFetch} from './fetch-missing.js'
import {describeFolder, joined} from './folder-config.js'
import {findReleased, modelNames, STARTER, starterFiles} from './model-zoo.js'
import {openSafetensors} from './safetensors.js'
import {huggingFacePreprocessing, recordedPreprocessing, timmPreprocessing, type Preprocessing} from './preprocessing.js'
import type {TensorEntry} from './tensor-entry.js'
import {assertOwnName, listStates} from './training-state.js'

export type CheckpointOptions = {
  /**
   * Which of several models in one file: `teacher`, `student`, or the key under which it lies. Default: the teacher
   * where there is one.
   */
  readonly root?: string
  /**
   * For mmcv files: read only `state_dict` and pass over unknown objects beside it. They are never built, let alone
   * called.
   */
  readonly tolerant?: boolean
}

export type Checkpoint = {
  /**
   * The file or folder that was opened at last; differs from what was asked for with run folders and names of released
   * models.
   */
  readonly path: string
  readonly format: 'pth' | 'safetensors' | 'huggingface'
  readonly dialect: Dialect
  /**
   * What the file says of itself: metadata of safetensors; of a Hugging Face or timm folder `heads` and the settings
   * it names.
   */
  readonly metadata: Readonly<Record<string, string>>
  /**
   * The backbone under Meta's names (docs/spec.md §1.9). Of a file that holds one head alone, its tensors under their
   * own names.
   */
  readonly tensors: Map<string, TensorEntry>
  /** What stands beside the backbone: `dino_head.…`, `ibot_head.…`, `decode_head.…`, `classifier.…`. */
  readonly heads: Map<string, TensorEntry>
  /** The root that was taken, where the file has several. */
  readonly root?: string
  /** How its images are prepared, where its files say so. */
  readonly preprocessing?: Preprocessing
  /** Sentences for the user: what was supplied, what was left aside. */
  readonly notes: readonly string[]
  close(): Promise<void>
}

type Opened = {
  readonly path: string
  readonly format: Checkpoint['format']
  readonly metadata: Readonly<Record<string, string>>
  readonly sums?: string | undefined
  readonly tensors: Map<string, TensorEntry>
  readonly preprocessing?: Preprocessing
  readonly notes?: readonly string[]
  close(): Promise<void>
}

/**
 * Opens a checkpoint. No numbers are read yet; `close` when done with them.
 *
 * Throws `UserError`: nothing there (exit 3), a damaged or refused file (exit 1), a root that is not there (exit 2).
 */
export async function openCheckpoint(path: string, options: CheckpointOptions = {}): Promise<Checkpoint> {
  const opened = await openAny(path, options)
  try {
    const named = nameTensors(opened.path, opened.tensors, options.root)
    return {
      path: opened.path,
      format: opened.format,
      metadata: opened.metadata,
      preprocessing: opened.preprocessing ?? recordedPreprocessing(opened.metadata, opened.path),
      close: () => opened.close(),
      ...named,
      notes: [...(opened.notes ?? []), ...named.notes]
    }
  } catch (error) {
    await opened.close()
    throw error
  }
}

/** Throws what `openCheckpoint` would of a model that is neither here nor may be fetched, before more is begun. */
export async function assertModelThere(path: string): Promise<void> {
  if ((await stat(path).catch(() => undefined)) || starterFiles.has(path) || (await mayFetch(path))) return
  await (await openAny(path, {})).close()
}

async function openAny(path: string, options: CheckpointOptions): Promise<Opened> {
  const found = await stat(path).catch(() => undefined)
  if (found) return found.isDirectory() ? openFolder(path, options) : openFile(path, options)
  const starter = starterFiles.get(path)
  if (starter) return openFile(starter, options)
  const released = findReleased(path)
  if (!released && isHubId(path)) return openFolder(await hubFolderOf(path), options)
  if (!released)
    throw new UserError(`${path} does not exist.`, {
      exit: 3,
      code: 'NO_INPUT',
      hint: missingPathHint(path, {
        names: modelNames,
        otherwise: `The names of released models: dinov2 models list. --model ${STARTER} is a small one that is always here.`
      })
    })
  return openFile((await findModelFile(path, [released.kind]))!, options)
}

/** The folder of a hub model in the cache; where it is not there and downloads are permitted, it is fetched first. */
async function hubFolderOf(id: string): Promise<string> {
  try {
    return await hubSnapshot(id)
  } catch (error) {
    if (!(error instanceof UserError) || error.code !== 'NO_INPUT' || !(await fetchMissing(id))) throw error
    return hubSnapshot(id)
  }
}

async function openFile(path: string, {tolerant}: CheckpointOptions): Promise<Opened> {
  const reader = await openReader(path)
  const head = await reader.read(0, Math.min(reader.size, 9)).finally(() => reader.close())
  // A safetensors file has { as its ninth byte; all else is for the reader of .pth to judge, unless the ending says
  // otherwise.
  if (head[8] === 0x7b || (path.endsWith('.safetensors') && head[0] !== 0x50)) {
    const file = await openSafetensors(path)
    return {path, format: 'safetensors', metadata: file.metadata, sums: file.sums, tensors: file.tensors, close: () => file.close()}
  }
  const file = await openPth(path, {tolerant})
  const tensors = new Map<string, TensorEntry>()
  for (const [root, dict] of file.roots) for (const [name, entry] of dict) tensors.set(root === '' ? name : `${root}.${name}`, entry)
  return {path, format: 'pth', metadata: file.metadata, tensors, close: () => file.close()}
}

async function openFolder(path: string, options: CheckpointOptions): Promise<Opened> {
  const inside = new Set(await readdir(path))
  if (inside.has('config.json')) return openHuggingFace(path, inside, options)
  if (inside.has('backbone.safetensors')) return openPair(join(path, 'backbone.safetensors'), options)
  const final = join(path, 'final', 'backbone.safetensors')
  const state = (await listStates(path)).at(-1)
  if (await stat(final).catch(() => undefined)) {
    const opened = await openPair(final, options)
    const step = Number(opened.metadata['step'])
    if (!state || !(state.step > step)) return opened
    await opened.close() // the run has gone on since it was finished
  }
  if (state) {
    const opened = await openFile(state.path, options)
    try {
      assertOwnName(state.path, opened.metadata)
    } catch (error) {
      await opened.close()
      throw error
    }
    return {...opened, notes: [`${path} is not finished; the teacher of its newest checkpoint is taken (step ${state.step}).`]}
  }
  const newest = await newestExport(path, inside)
  if (newest) return newest.endsWith('backbone.safetensors') ? openPair(newest, options) : openFile(newest, options)
  throw new UserError(`The folder ${path} holds no model that is known.`, {
    exit: 3,
    code: 'NO_INPUT',
    hint: 'Expected a run folder (final/backbone.safetensors, or checkpoints), a Hugging Face folder (config.json and model.safetensors), or the name of a checkpoint file in it.'
  })
}

/** The backbone of a run and, where they lie beside it, its heads. */
async function openPair(path: string, options: CheckpointOptions): Promise<Opened> {
  const backbone = await openFile(path, options)
  const beside = join(dirname(path), 'heads.safetensors')
  if (!(await stat(beside).catch(() => undefined))) return backbone
  try {
    const heads = await openFile(beside, options)
    try {
      assertSameModel(backbone, heads)
    } catch (error) {
      await heads.close()
      throw error
    }
    return {
      ...backbone,
      tensors: new Map([...backbone.tensors, ...heads.tensors]),
      close: async () => void (await Promise.all([backbone.close(), heads.close()]))
    }
  } catch (error) {
    await backbone.close()
    throw error
  }
}

/** The last thing that a run of the Python code wrote for others: by the largest number in the name of its folder. */
async function newestExport(run: string, inside: ReadonlySet<string>): Promise<string | undefined> {
  let best: {step: number; path: string} | undefined
  for (const folder of ['exports', 'eval'].filter(name => inside.has(name)))
    for (const name of await readdir(join(run, folder))) {
      const step = Number(/\d+/.exec(name)?.[0] ?? NaN)
      if (Number.isNaN(step) || (best && best.step >= step)) continue
      for (const file of ['backbone.safetensors', 'teacher_checkpoint.pth']) {
        const path = join(run, folder, name, file)
        if (await stat(path).catch(() => undefined)) {
          best = {step, path}
          break
        }
      }
    }
  return best?.path
}

async function openHuggingFace(path: string, inside: ReadonlySet<string>, options: CheckpointOptions): Promise<Opened> {
  const config = await readJsonObject(join(path, 'config.json'), 'BAD_CHECKPOINT')
  const described = describeFolder(config, path)
  const preprocessing = await preprocessingOf(path, inside, config)
  const index = 'model.safetensors.index.json'
  const single = ['model.safetensors', 'pytorch_model.bin'].find(name => inside.has(name))
  if (single !== undefined) {
    const file = await openFile(join(path, single), options)
    try {
      return {...file, path, format: 'huggingface', metadata: joined(described, file.metadata, path), preprocessing}
    } catch (error) {
      await file.close()
      throw error
    }
  }
  if (!inside.has(index))
    throw new UserError(`The folder ${path} has a config.json, but neither model.safetensors nor ${index} nor pytorch_model.bin.`, {
      exit: 3,
      code: 'NO_INPUT'
    })
  const map = (await readJsonObject(join(path, index), 'BAD_CHECKPOINT'))['weight_map']
  if (typeof map !== 'object' || map === null || Object.values(map).some(name => typeof name !== 'string' || /[/\\]|^\.\.?$/.test(name)))
    throw new UserError(`${join(path, index)} has no weight_map from tensors to files of its folder.`, {code: 'BAD_CHECKPOINT'})
  const places = Object.entries(map as Record<string, string>)
  const shards = new Map<string, Opened>()
  const close = async (): Promise<void> => void (await Promise.all([...shards.values()].map(shard => shard.close())))
  try {
    const tensors = new Map<string, TensorEntry>()
    for (const [name, file] of places) {
      const shard = shards.get(file) ?? (await openFile(join(path, file), options))
      shards.set(file, shard)
      const entry = shard.tensors.get(name)
      if (!entry)
        throw new UserError(`${join(path, file)} lacks the tensor ${name}, which ${index} places there.`, {code: 'BAD_CHECKPOINT'})
      tensors.set(name, entry)
    }
    const [first] = shards.values()
    return {path, format: 'huggingface', metadata: joined(described, first?.metadata ?? {}, path), preprocessing, tensors, close}
  } catch (error) {
    await close()
    throw error
  }
}

/** How a folder for transformers or timm prepares images; undefined where it does not say. */
async function preprocessingOf(folder: string, inside: ReadonlySet<string>, config: JsonObject): Promise<Preprocessing | undefined> {
  const single = join(folder, 'preprocessor_config.json')
  if (inside.has('preprocessor_config.json')) return huggingFacePreprocessing(await readJsonObject(single, 'BAD_CHECKPOINT'), single)
  if (inside.has('processor_config.json')) {
    const path = join(folder, 'processor_config.json')
    const image = (await readJsonObject(path, 'BAD_CHECKPOINT'))['image_processor']
    if (isObject(image)) return huggingFacePreprocessing(image, path)
  }
  // Early folders of timm have these fields beside the architecture.
  const timm = config['pretrained_cfg'] ?? (config['architecture'] !== undefined && config['mean'] !== undefined ? config : undefined)
  return isObject(timm) ? timmPreprocessing(timm, join(folder, 'config.json')) : undefined
}
