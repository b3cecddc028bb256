/**
 * `dinov2 export --to onnx`: a backbone for images of one size as a folder as optimum and transformers.js have it:
 * config.json, preprocessor_config.json, README.md and onnx/model.onnx (or onnx/model_fp16.onnx).
 */
import {mkdir, writeFile} from 'node:fs/promises'
import {join} from 'node:path'
import {UserError} from '../../config/errors.js'
import {fingerprintOf} from '../../files/checkpoint/fingerprint.js'
import type {Checkpoint} from '../../files/checkpoint/checkpoint.js'
import {huggingFaceConfig, preprocessor, withFractions} from '../../files/checkpoint/hugging-face-folder.js'
import type {Preprocessing} from '../../files/checkpoint/preprocessing.js'
import {FLOAT16_MAX, readFinite} from '../../files/checkpoint/tensor-entry.js'
import type {OnnxModel, OnnxValue} from '../../files/onnx/model.js'
import {externalSuffix, needsExternal, writeOnnx} from '../../files/onnx/write.js'
import type {VitConfig} from '../../model/config.js'
import {atomicFolder} from '../../system/atomic.js'
import {createGraph} from './graph.js'
import type {ExportedHead, HeadContext} from './exported-head.js'
import {openExportedHead} from './heads.js'
import {onnxCard} from './model-card.js'
import {addVit} from './vit-graph.js'

export type OnnxRequest = {
  readonly output: string
  readonly force?: boolean
  /** Linear layers in half precision. */
  readonly fp16?: boolean
  /** Whether pixels between 0 and 1 are normalized in the graph. */
  readonly normalize?: boolean
  readonly license?: string
  readonly toolVersion: string
  /** Bytes of weights above which they lie in a second file; by default what a protocol buffer holds. */
  readonly externalAbove?: number
  readonly onTensor?: (done: number, total: number) => void
}

/** A backbone, its heads and the size of its images, ready to be written. */
export type OnnxExport = {
  readonly config: VitConfig
  readonly checkpoint: Checkpoint
  readonly preprocessing: Preprocessing
  /** Side of the images in pixels. */
  readonly side: number
  readonly heads: readonly ExportedHead[]
}

/** The largest side of images, as everywhere in this program. */
const MAX_SIDE = 4096

/** Version of the operators: the first with LayerNormalization, and so what most programs run. */
const OPSET = 17

/**
 * The side of the images: the crop of the preprocessing, the short side where nothing is cut. `notes` receives what is
 * rounded. Throws a `UserError` (exit 2) where a side that was asked for is no multiple of the patch.
 */
export function onnxSide({resize, crop}: Preprocessing, {patch}: VitConfig, isAsked: boolean, notes: string[]): number {
  const side = crop ?? resize
  if (side > MAX_SIDE)
    throw new UserError(`Images of ${side} pixels are more than a graph of one size is made for; ${MAX_SIDE} is the most.`, {
      exit: 2,
      code: 'USAGE',
      hint: 'Give a smaller --size.'
    })
  const below = Math.max(patch, Math.floor(side / patch) * patch)
  if (below === side) return side
  if (isAsked)
    throw new UserError(`Images of ${side} pixels cannot be cut into patches of ${patch}.`, {
      exit: 2,
      code: 'USAGE',
      hint: `Give --size ${below} or --size ${below + patch}.`
    })
  notes.push(`The model takes images of ${side} pixels, which is no multiple of its patch (${patch}); it is exported for ${below}.`)
  return below
}

/**
 * Opens heads for a backbone. Throws a `UserError` where one does not fit or there are two of a task, and what
 * `openExportedHead` throws.
 */
export async function openHeads(
  names: readonly string[],
  {config, checkpoint, side}: Pick<OnnxExport, 'config' | 'checkpoint' | 'side'>,
  range: Pick<HeadContext, 'minDepth' | 'maxDepth'>
): Promise<ExportedHead[]> {
  const heads: ExportedHead[] = []
  const fingerprint = names.length === 0 ? '' : await fingerprintOf(config, checkpoint)
  for (const name of names) {
    const head = await openExportedHead(name, {config, fingerprint, side, ...range})
    if (heads.some(({task}) => task === head.task))
      throw new UserError(`There are two heads for ${head.task}; the second is ${name}.`, {
        exit: 2,
        code: 'USAGE',
        hint: 'Give one head of a task, or export two models.'
      })
    heads.push(head)
  }
  if ((range.minDepth ?? range.maxDepth) !== undefined && !heads.some(({task}) => task === 'depth'))
    throw new UserError('A range of depth was given, but no depth head.', {
      exit: 2,
      code: 'USAGE',
      hint: 'Leave --min-depth and --max-depth out, or name the head with --head.'
    })
  return heads
}

/**
 * Writes the folder whole or not at all. Throws a `UserError` where the output exists without `force` (exit 2), or a
 * weight is beyond half precision.
 */
export async function saveOnnx(request: OnnxRequest, model: OnnxExport): Promise<void> {
  const {output, force, fp16 = false, normalize = false, license, externalAbove, onTensor} = request
  const {config, preprocessing, side, heads} = model
  const onnx = onnxModel(request, model)
  const total = onnx.graph.initializers.length
  let done = 0
  const name = fp16 ? 'model_fp16.onnx' : 'model.onnx'
  const isExternal = needsExternal(onnx, externalAbove)
  await atomicFolder(
    output,
    async folder => {
      await mkdir(join(folder, 'onnx'))
      await writeOnnx(join(folder, 'onnx', name), onnx, {externalAbove, onTensor: () => onTensor?.(++done, total)})
      const settings = {...(fp16 && {dtype: 'fp16'}), ...(isExternal && {use_external_data_format: true})}
      await writeFile(join(folder, 'config.json'), withFractions(onnxConfig(model, settings)))
      await writeFile(
        join(folder, 'preprocessor_config.json'),
        json({...preprocessor({...preprocessing, crop: side}), do_normalize: !normalize})
      )
      const files = isExternal ? [name, name + externalSuffix] : [name]
      await writeFile(join(folder, 'README.md'), onnxCard({config, side, heads, files, fp16, normalize, license, preprocessing}))
    },
    {force}
  )
}

const json = (value: unknown): string => `${JSON.stringify(value, null, 2)}\n`

/** config.json as transformers has it, with the classes of a head, and what transformers.js must be told. */
function onnxConfig({config, side, heads}: OnnxExport, settings: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const {width, hidden, registers} = config
  const described = huggingFaceConfig(config, config.ffn === 'swiglu' ? (1.5 * hidden) / width : hidden / width)
  const classes = heads.find(({classes}) => classes)?.classes
  const isClassifier = heads.some(({task}) => task === 'classify')
  return {
    ...described,
    ...(isClassifier && {architectures: [registers ? 'Dinov2WithRegistersForImageClassification' : 'Dinov2ForImageClassification']}),
    image_size: side,
    ...(classes && {
      id2label: Object.fromEntries(classes.map((name, i) => [i, name])),
      label2id: Object.fromEntries(classes.map((name, i) => [name, i]))
    }),
    ...(Object.keys(settings).length > 0 && {'transformers.js_config': settings})
  }
}

/** The graph and what stands around it. */
function onnxModel({fp16 = false, normalize = false, toolVersion}: OnnxRequest, model: OnnxExport): OnnxModel {
  const {config, checkpoint, side, heads, preprocessing} = model
  const {width: C, registers: R, patch, depth} = config
  const element = fp16 ? 'float16' : 'float32'
  const N = (side / patch) ** 2
  const g = createGraph()
  const read = async (name: string): Promise<Float32Array> => {
    const data = await readFinite(checkpoint.tensors.get(name)!, name, checkpoint.path)
    const far = fp16 ? data.find(value => Math.abs(value) > FLOAT16_MAX) : undefined
    if (far === undefined) return data
    throw new UserError(`${name} holds ${far}, and half precision ends at ${FLOAT16_MAX}.`, {
      code: 'NOT_HALF',
      hint: 'Export without --fp16.'
    })
  }
  const three = (name: string, values: readonly number[]): string => g.weight(name, [1, 3, 1, 1], () => Float32Array.from(values))
  const {mean, std} = preprocessing
  const centred = (): string => g.node('Sub', ['pixel_values', three('image_mean', mean)])
  const pixels = normalize ? g.node('Div', [centred(), three('image_std', std)]) : 'pixel_values'
  const vit = addVit(g, pixels, {config, side, element, read})
  const last = g.node('Identity', [vit.tokens(depth - 1, true)], {}, 'last_hidden_state')
  vit.cls(last, 'pooler_output')
  vit.patches(last, 'patch_tokens')
  for (const head of heads) head.add(g, vit)
  const value = (name: string, ...shape: number[]): OnnxValue => ({name, element: 'float32', shape: ['batch_size', ...shape]})
  return {
    graph: {
      nodes: g.nodes,
      initializers: g.initializers,
      inputs: [value('pixel_values', 3, side, side)],
      outputs: [
        value('last_hidden_state', 1 + R + N, C),
        value('pooler_output', C),
        value('patch_tokens', N, C),
        ...heads.map(({output, shape}) => value(output, ...shape))
      ]
    },
    opset: OPSET,
    producer: {name: 'dinov2', version: toolVersion},
    metadata: {patch: String(patch), registers: String(R), image_size: String(side)}
  }
}
