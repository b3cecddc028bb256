/**
 * A checkpoint of any kind that is read, written as another kind: the work of `dinov2 export`. One tensor is held at a
 * time.
 */
import {checkFit, configMetadata, expectedShapes, inferConfig} from '../files/checkpoint/architecture.js'
import {refuseExisting} from '../system/atomic.js'
import {readBackbone, saveBackbone, type NamedTensor} from '../files/checkpoint/backbone.js'
import {openCheckpoint, type Checkpoint} from '../files/checkpoint/checkpoint.js'
import {saveHuggingFace} from '../files/checkpoint/hugging-face-folder.js'
import {
  defaultPreprocessing,
  describePreprocessing,
  isImageNet,
  preprocessingMetadata,
  type Preprocessing
} from '../files/checkpoint/preprocessing.js'
import {saveTimm} from '../files/checkpoint/timm-folder.js'
import {writePth} from '../files/checkpoint/pth.js'
import {writeSafetensors, type TensorSource} from '../files/checkpoint/safetensors.js'
import {FLOAT16_MAX, float16Bytes, float32Bytes, elements, readFinite, type TensorEntry} from '../files/checkpoint/tensor-entry.js'
import {UserError} from '../config/errors.js'
import {shortSideFor} from '../config/derived.js'
import type {VitConfig} from '../model/config.js'
import {onnxSide, openHeads, saveOnnx, type OnnxExport} from './onnx/export-onnx.js'

export const exportFormats = ['safetensors', 'hf', 'meta', 'timm', 'onnx'] as const
export type ExportFormat = (typeof exportFormats)[number]

export type ExportRequest = {
  readonly model: string
  readonly to: ExportFormat
  readonly output: string
  readonly force?: boolean
  /** Which of several models in one file. */
  readonly root?: string
  /** For mmcv files: read `state_dict` alone. */
  readonly stateDictOnly?: boolean
  /** Attention heads, where the file does not say and the width does not tell. */
  readonly numHeads?: number
  /**
   * The projection heads too: meta as `{"teacher": {"backbone.…", "dino_head.…"}}`, safetensors under the same names.
   */
  readonly withHeads?: boolean
  /** Half precision instead of float32; for safetensors and onnx. */
  readonly fp16?: boolean
  /** For the card of a Hugging Face folder. */
  readonly license?: string
  /** Of its preprocessor, in pixels; where absent, what the model was trained with, or 256 and 224. */
  readonly resize?: number
  readonly crop?: number
  /** A crop of this side and the resizing that goes with it. */
  readonly size?: number
  /** For onnx: trained heads, and whether pixels are normalized in the graph. */
  readonly heads?: readonly string[]
  readonly normalize?: boolean
  /** For onnx: the range of a depth head in metres, where its file does not say. */
  readonly minDepth?: number
  readonly maxDepth?: number
  /** For onnx: bytes of weights above which they lie in a second file; by default what a protocol buffer holds. */
  readonly externalAbove?: number
  readonly toolVersion: string
  /** Tells what would be written and writes nothing. */
  readonly dryRun?: boolean
  readonly onTensor?: (done: number, total: number) => void
}

export type ExportReport = {
  readonly source: string
  readonly output: string
  readonly format: ExportFormat
  /** Absent where the file holds a head alone. */
  readonly config?: VitConfig
  readonly tensors: number
  readonly parameters: number
  /** Bytes of the tensors as they are written. */
  readonly bytes: number
  readonly notes: readonly string[]
}

/**
 * Converts. Throws `UserError`: the source cannot be read or is incomplete, the output exists (exit 2), the format has
 * no place for what is in the source. The output appears whole or not at all.
 */
export async function exportModel(request: ExportRequest): Promise<ExportReport> {
  const {model, output, force, root, stateDictOnly} = request
  const {normalize, heads = [], minDepth, maxDepth} = request
  const graphFlag = normalize ? '--normalize' : heads.length > 0 ? '--head' : (minDepth ?? maxDepth) !== undefined ? '--max-depth' : ''
  if (request.to !== 'onnx' && graphFlag !== '')
    throw new UserError(`${graphFlag} is for --to onnx; a format of weights alone has no place for it.`, {
      exit: 2,
      code: 'USAGE',
      hint: 'Leave it out, or export with --to onnx.'
    })
  if (request.fp16 && request.to !== 'safetensors' && request.to !== 'onnx')
    throw new UserError(`--fp16 is for --to safetensors and --to onnx; ${request.to} is written as float32.`, {
      exit: 2,
      code: 'USAGE',
      hint: 'Leave --fp16 out: half precision saves space, and every tool converts when it loads.'
    })
  await refuseExisting(output, {force})
  const checkpoint = await openCheckpoint(model, {root, tolerant: stateDictOnly})
  try {
    const names = [...checkpoint.tensors.keys()]
    const isBackbone = names.some(name => name === 'patch_embed.proj.weight' || /(^|\.)(blocks|encoder\.layer)\.\d/.test(name))
    return await (isBackbone ? exportBackbone(request, checkpoint) : exportHeads(request, checkpoint))
  } finally {
    await checkpoint.close()
  }
}

async function exportBackbone(request: ExportRequest, checkpoint: Checkpoint): Promise<ExportReport> {
  const {model, to, output, force, numHeads, withHeads, fp16, license, toolVersion, dryRun} = request
  const shapes = new Map([...checkpoint.tensors].map(([name, {shape}]) => [name, shape]))
  const config = inferConfig(shapes, checkpoint.metadata, numHeads === undefined ? {} : {heads: numHeads}, model)
  const expected = expectedShapes(config)
  checkFit(expected, shapes, model)
  if (withHeads && (to === 'hf' || to === 'timm' || to === 'onnx'))
    throw new UserError(`A folder for ${{hf: 'transformers', timm: 'timm', onnx: 'ONNX'}[to]} has no place for projection heads.`, {
      exit: 2,
      code: 'USAGE',
      hint: 'Leave --with-heads out, or export to meta or safetensors.'
    })
  const heads = [...checkpoint.heads].filter(([name]) => /^(dino|ibot)_head\./.test(name))
  if (withHeads && heads.length === 0)
    throw new UserError(`${model} has no projection heads.`, {
      exit: 2,
      code: 'NO_HEADS',
      hint: 'Released backbones come without; leave --with-heads out.'
    })

  const backbone = [...expected.keys()].map(name => checkpoint.tensors.get(name)!)
  const all = withHeads ? [...backbone, ...heads.map(([, entry]) => entry)] : backbone
  const notes = [...checkpoint.notes]
  if (to === 'timm') notes.push('timm has no mask token; it was left out.')
  const preprocessing = exportedPreprocessing(request, checkpoint, config, notes)
  const onnx = to === 'onnx' ? await onnxExport(request, {config, checkpoint, preprocessing, notes}) : undefined
  const headParameters = onnx?.heads.reduce((sum, {parameters}) => sum + parameters, 0)
  const report = describe(request, checkpoint, all, {config, notes, headParameters})
  if (dryRun) return report
  if (onnx) {
    await saveOnnx(request, onnx)
    return report
  }

  const tick = counter(request, all.length)
  const stream = counted(readBackbone(config, checkpoint), tick)
  const recorded = preprocessing.source === undefined ? {} : preprocessingMetadata(preprocessing)
  const metadata = {...ofModel(checkpoint.metadata), ...recorded, tool_version: toolVersion}
  if (to === 'hf') await saveHuggingFace(output, config, stream, {force, metadata, preprocessing, modelCard: {license}})
  else if (to === 'timm') await saveTimm(output, config, stream, {force, metadata, preprocessing})
  else if (to === 'safetensors' && !withHeads && !fp16) await saveBackbone(output, config, stream, metadata, {force})
  else {
    const named = withHeads
      ? [...backbone.map(entry => [`backbone.${entry.name}`, entry] as const), ...heads]
      : backbone.map(entry => [entry.name, entry] as const)
    const tensors = sources(named, tick, checkpoint.path, fp16)
    const whole = {...metadata, ...configMetadata(config)}
    if (to === 'meta') await writePth(output, tensors, {force, metadata: whole, ...(withHeads && {root: 'teacher'})})
    else await writeSafetensors(output, tensors, whole, {force})
  }
  return report
}

/** What a checkpoint of a training run says of the run, not of the model; it stays behind. */
const ofRun = new Set(['settings', 'images', 'images_fingerprint', 'position', 'window', 'computing', 'history', 'taught_by'])
const ofModel = (metadata: Readonly<Record<string, string>>): Record<string, string> =>
  Object.fromEntries(Object.entries(metadata).filter(([name]) => !ofRun.has(name)))

/**
 * The preprocessing that goes with the exported model: its own, unless --resize or --crop says otherwise. `notes`
 * receives what the format changes or cannot hold. Throws `UserError` (exit 2) where the crop exceeds the short side.
 */
function exportedPreprocessing(
  {to, resize, crop, size}: ExportRequest,
  {preprocessing: own = defaultPreprocessing, format}: Checkpoint,
  {grid, patch}: VitConfig,
  notes: string[]
): Preprocessing {
  const isAsked = resize !== undefined || crop !== undefined || size !== undefined
  const short = resize ?? (size === undefined ? own.resize : shortSideFor(size))
  const asked = {...own, resize: short, crop: crop ?? size ?? own.crop, source: isAsked ? 'as asked for' : own.source}
  if (asked.crop !== undefined && asked.crop > asked.resize)
    throw new UserError(`A crop of ${asked.crop} pixels does not fit into images whose short side is ${asked.resize}.`, {
      exit: 2,
      code: 'USAGE',
      hint: 'Give both --resize and --crop.'
    })
  const margin = asked.resize - (asked.crop ?? asked.resize)
  if ((to === 'hf' || to === 'onnx') && margin % 2 !== 0) {
    if (isAsked || format === 'huggingface') {
      notes.push(`The margin of ${margin} pixels is odd: some versions of transformers cut one pixel beside what this program cuts.`)
      return asked
    }
    const even = {...asked, resize: asked.resize + 1}
    notes.push(`The short side is exported as ${even.resize} instead of ${asked.resize}, so that transformers cuts the same pixels.`)
    return even
  }
  if (to === 'meta' && asked.source !== undefined) {
    const size = isImageNet(asked) ? '' : ' They have to normalize images by this mean and deviation.'
    notes.push(`Other programs find no preprocessing in a .pth (${describePreprocessing({...asked, source: undefined})}).${size}`)
  }
  if (to === 'timm' && asked.source !== undefined && asked.crop !== grid * patch)
    notes.push(`timm shows the model images of ${grid * patch} pixels, not of ${asked.crop ?? 'any size'}.`)
  return asked
}

/** The size, the preprocessing and the heads of an ONNX folder. */
async function onnxExport(
  {size, crop, minDepth, maxDepth, heads: names = []}: ExportRequest,
  {config, checkpoint, preprocessing, notes}: Pick<OnnxExport, 'config' | 'checkpoint' | 'preprocessing'> & {readonly notes: string[]}
): Promise<OnnxExport> {
  const side = onnxSide(preprocessing, config, size !== undefined || crop !== undefined, notes)
  const heads = await openHeads(names, {config, checkpoint, side}, {minDepth, maxDepth})
  notes.push(...heads.flatMap(head => head.notes))
  return {config, checkpoint, preprocessing, side, heads}
}

/** A file that holds a head and no backbone: its tensors under the names they have. */
async function exportHeads(request: ExportRequest, checkpoint: Checkpoint): Promise<ExportReport> {
  const {model, to, output, force, toolVersion, dryRun} = request
  if (to === 'hf' || to === 'timm' || to === 'onnx')
    throw new UserError(
      `${model} holds no backbone, only ${[...checkpoint.heads.keys(), ...checkpoint.tensors.keys()].slice(0, 3).join(', ')}, ….`,
      {
        exit: 2,
        code: 'NO_BACKBONE',
        hint: to === 'onnx' ? 'Give the backbone, and the head by --head.' : 'A head is exported to safetensors or meta.'
      }
    )
  const named = [...checkpoint.tensors, ...checkpoint.heads]
  const report = describe(
    request,
    checkpoint,
    named.map(([, entry]) => entry),
    {notes: checkpoint.notes}
  )
  if (dryRun) return report
  const tensors = sources(named, counter(request, named.length), checkpoint.path, request.fp16)
  if (to === 'meta') await writePth(output, tensors, {force})
  else await writeSafetensors(output, tensors, {...checkpoint.metadata, tool_version: toolVersion}, {force})
  return report
}

function describe(
  {to, output, fp16}: ExportRequest,
  {path}: Checkpoint,
  tensors: readonly TensorEntry[],
  {config, notes, headParameters = 0}: Pick<ExportReport, 'config' | 'notes'> & {readonly headParameters?: number}
): ExportReport {
  const parameters = tensors.reduce((sum, {shape}) => sum + elements(shape), headParameters)
  return {
    source: path,
    output,
    format: to,
    ...(config && {config}),
    tensors: tensors.length,
    parameters,
    bytes: (fp16 ? 2 : 4) * parameters,
    notes
  }
}

/** Called once a tensor; tells how many are done. */
function counter({onTensor}: ExportRequest, total: number): () => void {
  let done = 0
  return () => onTensor?.(++done, total)
}

async function* counted(stream: AsyncIterable<NamedTensor>, tick: () => void): AsyncGenerator<NamedTensor> {
  for await (const tensor of stream) {
    yield tensor
    tick()
  }
}

/** Entries as sources of float32 or half precision, which are read when their turn to be written comes. */
const sources = (named: readonly (readonly [string, TensorEntry])[], tick: () => void, path: string, fp16 = false): TensorSource[] =>
  named.map(([name, entry]) => ({
    name,
    dtype: fp16 ? 'F16' : 'F32',
    shape: entry.shape,
    async read() {
      const data = await readFinite(entry, name, path)
      tick()
      if (!fp16) return float32Bytes(data)
      const far = data.find(value => Math.abs(value) > FLOAT16_MAX)
      if (far === undefined) return float16Bytes(data)
      throw new UserError(`${name} holds ${far}, and half precision ends at ${FLOAT16_MAX}.`, {
        exit: 1,
        code: 'NOT_HALF',
        hint: 'Export without --fp16.'
      })
    }
  }))
