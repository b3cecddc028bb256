/**
 * The vision transformer of DINOv2, as functions over a tree of parameters.
 *
 * Names are those of the released checkpoints, layouts too: loading is a copy. All sequences of a pass lie packed in
 * one matrix of T rows (see `tensor/ops/attention.ts`); a pass takes one or more *views*, batches of images of one
 * size each, and returns features per view.
 *
 * In shape comments: B images, H × W pixels, P patch side, N = (H/P)·(W/P) patches, R registers, S = 1 + R + N tokens,
 * C width.
 */
import {add, concat, dispose, expandDims, matMul, mul, reshape, slice, sub, sum, tidy, tile} from '../tensor/tf.js'
import type {Tensor, Tensor1D, Tensor2D, Tensor3D, Tensor4D} from '../tensor/tf.js'
import type {SequenceGroup} from '../tensor/ops/attention.js'
import {layerNormBackward, layerNormForward} from '../tensor/ops/layer-norm.js'
import type {Norm, NormStats} from '../tensor/ops/layer-norm.js'
import {linearForward, scaleRows} from '../tensor/ops/linear.js'
import type {Linear} from '../tensor/ops/linear.js'
import {cast, castLike} from '../tensor/ops/precision.js'
import type {Precision} from '../tensor/ops/precision.js'
import {patchRows} from '../tensor/ops/patches.js'
import {disposeTree} from '../tensor/tree.js'
import {blockBackward, blockFirstRows, blockForward, blockInference} from './block.js'
import type {Block, BlockOptions, BlockSaved, MemoryLevel} from './block.js'
import type {VitConfig} from './config.js'
import {positionsFor, resamplePositionsBackward} from './positions.js'

/** Parameters of a backbone; keys and layouts are those of the released checkpoints (docs/spec.md §1.9). */
export type Vit = {
  cls_token: Tensor3D /* [1, 1, C] */
  pos_embed: Tensor3D /* [1, 1 + M², C] */
  mask_token: Tensor2D /* [1, C] */
  register_tokens?: Tensor3D /* [1, R, C] */
  patch_embed: {proj: {weight: Tensor4D /* [C, 3, P, P] */; bias: Tensor1D}}
  blocks: Block[]
  norm: Norm
}

/** One batch of images of one size, normalized; where a mask [B, N] is one, the mask token stands in for the patch. */
export type ImageView = {readonly images: Tensor4D /* [B, H, W, 3] */; readonly masks?: Tensor2D}

/** Normed tokens of one view, and all of them before the final norm (docs/spec.md §1.6). */
export type Features = {
  cls: Tensor2D /* [B, C] */
  registers: Tensor3D /* [B, R, C] */
  patches: Tensor3D /* [B, N, C] */
  prenorm: Tensor3D /* [B, S, C] */
}

type Grid = {readonly count: number; readonly rows: number; readonly columns: number}

/** Patches along both sides. Throws a RangeError where a side is not a multiple of the patch. */
export function gridOf({images}: ImageView, {patch}: VitConfig): Grid {
  const [count, height, width] = images.shape
  if (height % patch || width % patch)
    throw new RangeError(`expected images whose sides are multiples of the patch (${patch} px) but received ${height} × ${width}`)
  return {count, rows: height / patch, columns: width / patch}
}

const tokensOf = ({rows, columns}: Grid, {registers}: VitConfig): number => 1 + registers + rows * columns
const groupOf = (grid: Grid, config: VitConfig): SequenceGroup => ({count: grid.count, length: tokensOf(grid, config)})

/** The patch kernel as a linear layer: [C, 3·P·P], flattened (channel, y, x). */
const patchLayer = ({patch_embed: {proj}}: Vit, {width, patch}: VitConfig): Linear => ({
  weight: reshape(proj.weight, [width, 3 * patch * patch]),
  bias: proj.bias
})

/**
 * One view as token rows: patches embedded, mask token put in, cls before, positions added, registers inserted; →
 * [B·S, C] float32.
 */
function embedView(params: Vit, view: ImageView, config: VitConfig): {x: Tensor2D; pixels: Tensor2D} {
  const {count: B, rows, columns} = gridOf(view, config)
  const {width: C, registers: R} = config
  const N = rows * columns
  return tidy(() => {
    const layer = patchLayer(params, config)
    const pixels = castLike(patchRows(view.images, config.patch), layer.weight) //           [B·N, 3·P·P]
    let embedded: Tensor2D = cast(linearForward(pixels, layer), 'fp32') //                       [B·N, C]
    if (view.masks) {
      const hidden = reshape(view.masks, [B * N, 1])
      embedded = add(mul(embedded, sub(1, hidden)), mul(hidden, params.mask_token))
    }
    const positions = positionsFor(params.pos_embed, config, rows, columns) //               [1 + N, C]
    const cls = add(reshape(params.cls_token, [1, 1, C]), reshape(slice(positions, [0, 0], [1, C]), [1, 1, C]))
    const parts: Tensor3D[] = [tile(cls as Tensor3D, [B, 1, 1])]
    if (R > 0) parts.push(tile(params.register_tokens!, [B, 1, 1]))
    parts.push(add(reshape(embedded, [B, N, C]), expandDims(slice(positions, [1, 0]), 0)))
    return {x: reshape(concat(parts, 1), [B * (1 + R + N), C]), pixels}
  })
}

type EmbedGrads = Pick<Vit, 'cls_token' | 'pos_embed' | 'mask_token' | 'register_tokens' | 'patch_embed'>

/** Gradients of the token embedding of one view for dx [B·S, C]. */
function embedBackward(dx: Tensor2D, pixels: Tensor2D, view: ImageView, config: VitConfig): EmbedGrads {
  const {count: B, rows, columns} = gridOf(view, config)
  const {width: C, registers: R, grid: M, patch} = config
  const N = rows * columns
  return tidy(() => {
    const tokens = reshape(dx, [B, 1 + R + N, C])
    const dcls = sum<Tensor2D>(slice(tokens, [0, 0, 0], [B, 1, C]), 0) //                    [1, C]
    const dpatches = slice(tokens as Tensor3D, [0, 1 + R, 0], [B, N, C])
    const dpositions = resamplePositionsBackward(sum<Tensor2D>(dpatches, 0), config, rows, columns) // [M², C]
    let dseen = reshape(dpatches, [B * N, C]) as Tensor2D
    let dmask: Tensor2D = mul(dcls, 0)
    if (view.masks) {
      const hidden = reshape(view.masks, [B * N, 1])
      dmask = reshape(sum(mul(dseen, hidden), 0), [1, C])
      dseen = mul(dseen, sub(1, hidden))
    }
    const weight = weightGrad(dseen, pixels)
    return {
      cls_token: reshape(dcls, [1, 1, C]),
      pos_embed: reshape(concat([dcls, dpositions], 0), [1, 1 + M * M, C]),
      mask_token: dmask,
      ...(R > 0 ? {register_tokens: expandDims(sum(slice(tokens as Tensor3D, [0, 1, 0], [B, R, C]), 0), 0) as Tensor3D} : {}),
      patch_embed: {proj: {weight: reshape(weight, [C, 3, patch, patch]), bias: sum<Tensor1D>(dseen, 0)}}
    }
  })
}

/** dyᵀ·x as float32, the product taken in the precision of x; dy [T, O], x [T, I] → [O, I]. */
const weightGrad = (dy: Tensor2D, x: Tensor2D): Tensor2D =>
  tidy(() => {
    const grad = castLike(dy, x)
    return cast(matMul<Tensor2D>(grad, x, true, false), 'fp32')
  })

/** Options of a pass that saves nothing. */
export type ForwardOptions = {
  readonly masks?: Tensor2D
  /** How the residual stream is held; fp32 where not said. bf16 is quicker and serves finished models. */
  readonly stream?: Precision
}

/** Blocks that are there only while they are used: gathered from pieces, for instance. */
export type BlockAccess = {
  /** Does `work` with block i; `next` is the block that will be used after it, which may be fetched meanwhile. */
  readonly use: <T>(i: number, work: (block: Block) => T, next?: number) => T
  /** Takes over the gradients of block i. */
  readonly gradients: (i: number, grads: Block) => void
}

const heldBlocks = ({blocks}: Vit): Pick<BlockAccess, 'use'> => ({use: (i, work) => work(blocks[i]!)})

/**
 * Runs all blocks over one view; calls `at(i, x)` after block i with its output, which stays the model's. `access` has
 * the blocks where `params` has none.
 */
function encode(
  params: Vit,
  view: ImageView,
  config: VitConfig,
  stream: Precision,
  at?: (block: number, x: Tensor2D) => void,
  access?: Pick<BlockAccess, 'use'>
): Tensor2D {
  const groups = [groupOf(gridOf(view, config), config)]
  const {use} = access ?? heldBlocks(params)
  let x = tidy(() => cast(embedView(params, view, config).x, stream))
  const depth = access ? config.depth : params.blocks.length
  for (let i = 0; i < depth; i++) {
    const y = use(i, p => blockInference(x, p, groups, config.heads), i + 1 < depth ? i + 1 : undefined)
    dispose(x)
    x = y
    at?.(i, x)
  }
  return x
}

/** Normed rows split into cls, registers and patches; x [B·S, C]. */
function splitTokens(y: Tensor2D, {count: B, rows, columns}: Grid, {width: C, registers: R}: VitConfig): Omit<Features, 'prenorm'> {
  const N = rows * columns
  const tokens = reshape(y, [B, 1 + R + N, C]) as Tensor3D
  return {
    cls: reshape(slice(tokens, [0, 0, 0], [B, 1, C]), [B, C]),
    registers: slice(tokens, [0, 1, 0], [B, R, C]),
    patches: slice(tokens, [0, 1 + R, 0], [B, N, C])
  }
}

/**
 * Normalized images [B, H, W, 3] → features, which the caller owns.
 * Throws a RangeError where a side is not a multiple of the patch.
 */
export function forward(params: Vit, images: Tensor4D, config: VitConfig, {masks, stream = 'fp32'}: ForwardOptions = {}): Features {
  return tidy(() => {
    const view: ImageView = masks ? {images, masks} : {images}
    const grid = gridOf(view, config)
    const x = encode(params, view, config, stream)
    const y = layerNormForward(cast(x, 'fp32'), params.norm).y
    return {...splitTokens(y, grid, config), prenorm: reshape(cast(x, 'fp32'), [grid.count, tokensOf(grid, config), config.width])}
  })
}

/**
 * The normed cls tokens [B, C] of normalized images [B, H, W, 3], float32: what `forward` gives as `cls`, without
 * computing what the last block would only do for the other tokens. The caller owns the result.
 */
export function clsTokens(
  params: Vit,
  images: Tensor4D,
  config: VitConfig,
  stream: Precision = 'fp32',
  access?: Pick<BlockAccess, 'use'>
): Tensor2D {
  return tidy(() => {
    const view: ImageView = {images}
    const group = groupOf(gridOf(view, config), config)
    const depth = (access ? config.depth : params.blocks.length) - 1
    const x = encode({...params, blocks: params.blocks.slice(0, depth)}, view, {...config, depth}, stream, undefined, access)
    const last = (access ?? heldBlocks(params)).use(depth, p => blockFirstRows(x, p, group, config.heads))
    return layerNormForward(cast(last, 'fp32'), params.norm).y
  })
}

/** The normed tokens of one view as packed rows [B·S, C] float32, sequence by sequence: cls, registers, patches. */
export function normedTokens(params: Vit, view: ImageView, config: VitConfig, stream: Precision = 'fp32', access?: BlockAccess): Tensor2D {
  return tidy(() => layerNormForward(cast(encode(params, view, config, stream, undefined, access), 'fp32'), params.norm).y)
}

export type IntermediateOptions = {
  /** A number: the last n blocks. A list: these blocks, counted from 0. Answers come in ascending order. */
  readonly n: number | readonly number[]
  /** Whether the final norm is applied to each output; true where not said. */
  readonly norm?: boolean
  readonly stream?: Precision
}

/**
 * Outputs of chosen blocks (docs/spec.md §1.7): patches [B, N, C] and cls [B, C] of each, which the caller owns.
 * Registers are left out.
 */
export function intermediateLayers(
  params: Vit,
  images: Tensor4D,
  config: VitConfig,
  {n, norm = true, stream = 'fp32'}: IntermediateOptions
): {patches: Tensor3D; cls: Tensor2D}[] {
  const wanted = new Set(typeof n === 'number' ? Array.from({length: n}, (_, i) => config.depth - n + i) : n)
  for (const block of wanted)
    if (!Number.isInteger(block) || block < 0 || block >= config.depth)
      throw new RangeError(`expected blocks between 0 and ${config.depth - 1} but received ${block}`)
  return tidy(() => {
    const grid = gridOf({images}, config)
    const out: {patches: Tensor3D; cls: Tensor2D}[] = []
    encode(params, {images}, config, stream, (block, x) => {
      if (!wanted.has(block)) return
      const last = cast(x, 'fp32')
      const y = norm ? layerNormForward(last, params.norm).y : last
      const {patches, cls} = splitTokens(y, grid, config)
      out.push({patches, cls})
    })
    return out
  })
}

// ---------------------------------------------------------------------------------------------------------------
// training

/** What the backward half of a training pass needs. `disposeTree` it where the backward half is not run. */
export type Trace = {
  readonly views: readonly ImageView[]
  readonly grids: readonly Grid[]
  readonly groups: readonly SequenceGroup[]
  readonly pixels: Tensor2D[]
  readonly blocks: BlockSaved[]
  readonly options: readonly BlockOptions[]
  last: {x: Tensor2D; stats: NormStats}
}

/** Normed tokens of all views, packed in their order. */
export type Packed = {readonly y: Tensor2D /* [T, C] float32 */; readonly trace: Trace}

/**
 * A training pass over several views at once: all their sequences packed into one (docs/spec.md §3), no tape.
 * `options` holds the options of each block (heads, kept sequences of stochastic depth), `level` what it saves. Of the
 * views' images nothing but the shape is needed afterwards.
 */
export function forwardTrain(
  params: Vit,
  views: readonly ImageView[],
  config: VitConfig,
  options: readonly BlockOptions[],
  level: MemoryLevel = 'fast',
  access?: BlockAccess
): Packed {
  const {use} = access ?? heldBlocks(params)
  const grids = views.map(view => gridOf(view, config))
  const groups = grids.map(grid => groupOf(grid, config))
  const {x: first, pixels} = tidy(() => {
    const embedded = views.map(view => embedView(params, view, config))
    return {x: concat(embedded.map(({x}) => x)), pixels: embedded.map(e => e.pixels)}
  })
  let x = first
  const saved: BlockSaved[] = []
  for (const [i, own] of options.entries()) {
    const step = use(i, p => blockForward(x, p, groups, own, level), i + 1 < options.length ? i + 1 : undefined)
    dispose(x)
    x = step.y
    saved.push(step.saved)
  }
  const {y, mean, rstd} = tidy(() => layerNormForward(x, params.norm))
  return {y, trace: {views, grids, groups, pixels, blocks: saved, options, last: {x, stats: {mean, rstd}}}}
}

/**
 * The backward half: dy [T, C] of the packed normed tokens → gradients, a tree like `params` (float32), which the
 * caller owns. Consumes the trace: each block's saved tensors are freed as soon as its gradients are there. `access`
 * takes over the gradients of blocks.
 */
export function backwardTrain(dy: Tensor2D, params: Vit, trace: Trace, config: VitConfig, access?: BlockAccess): Vit {
  const {use} = access ?? heldBlocks(params)
  const {views, grids, groups, options, last} = trace
  const norm = tidy(() => layerNormBackward(dy, last.x, last.stats, params.norm))
  disposeTree([last.x, last.stats.mean, last.stats.rstd])
  let dx = norm.x
  const blocks: Block[] = new Array<Block>(params.blocks.length)
  for (let i = options.length - 1; i >= 0; i--) {
    const step = use(i, p => blockBackward(dx, trace.blocks[i]!, p, groups, options[i]!), i > 0 ? i - 1 : undefined)
    disposeTree(trace.blocks[i]!)
    dispose(dx)
    dx = step.dx
    if (access) access.gradients(i, step.grads)
    else blocks[i] = step.grads
  }
  const embedding = tidy(() => {
    let start = 0
    return views
      .map((view, i) => {
        const rows = grids[i]!.count * groups[i]!.length
        const grads = embedBackward(slice(dx, [start, 0], [rows, config.width]), trace.pixels[i]!, view, config)
        start += rows
        return grads
      })
      .reduce(sumTrees)
  })
  disposeTree(trace.pixels)
  dispose(dx)
  return {...embedding, blocks, norm: {weight: norm.weight, bias: norm.bias}}
}

/** Lets a trace go whose backward half is not run. */
export function freeTrace({blocks, pixels, last: {x, stats}}: Trace): void {
  for (const saved of blocks) disposeTree(saved)
  disposeTree([...pixels, x, stats.mean, stats.rstd])
}

const sumTrees = (a: EmbedGrads, b: EmbedGrads): EmbedGrads => {
  const both = <T extends Tensor>(x: T, y: T): T => add(x, y)
  return {
    cls_token: both(a.cls_token, b.cls_token),
    pos_embed: both(a.pos_embed, b.pos_embed),
    mask_token: both(a.mask_token, b.mask_token),
    ...(a.register_tokens && b.register_tokens ? {register_tokens: both(a.register_tokens, b.register_tokens)} : {}),
    patch_embed: {
      proj: {
        weight: both(a.patch_embed.proj.weight, b.patch_embed.proj.weight),
        bias: both(a.patch_embed.proj.bias, b.patch_embed.proj.bias)
      }
    }
  }
}

/**
 * What `castParams` and `castForInference` give: parameters of which some are copies that the caller owns, the others
 * shared with the original.
 */
export type CastParams = {readonly params: Vit; readonly owned: Tensor[]}

/**
 * The copy of a backbone's weights that enters matrix products: linear layers in `precision`, all else shared as it
 * is.
 */
export const castParams = (params: Vit, precision: Precision): CastParams => castAll(params, precision, false)

/**
 * As `castParams`, with LayerScale multiplied into the layers before it once and for all: for passes without
 * training.
 */
export const castForInference = (params: Vit, precision: Precision): CastParams => castAll(params, precision, true)

function castAll(params: Vit, precision: Precision, fold: boolean): CastParams {
  const patches = castPatchEmbed(params.patch_embed, precision)
  const blocks = params.blocks.map(block => castBlock(block, precision, fold))
  return {
    params: {...params, patch_embed: patches.patch_embed, blocks: blocks.map(({block}) => block)},
    owned: [...patches.owned, ...blocks.flatMap(({owned}) => owned)]
  }
}

/** The patch embedding in `precision`; `owned` are the caller's. */
export function castPatchEmbed({proj}: Vit['patch_embed'], precision: Precision): {patch_embed: Vit['patch_embed']; owned: Tensor[]} {
  const layer = {weight: cast(proj.weight, precision), bias: cast(proj.bias, precision)}
  return {patch_embed: {proj: layer}, owned: [layer.weight, layer.bias]}
}

/**
 * A block with its linear layers in `precision`, and with `fold` LayerScale multiplied into the layers before it;
 * `owned` are the caller's, the rest is shared.
 */
export function castBlock({ls1, ls2, ...p}: Block, precision: Precision, fold: boolean): {block: Block; owned: Tensor[]} {
  const owned: Tensor[] = []
  const low = ({weight, bias}: Linear): Linear => {
    const layer = {weight: cast(weight, precision), bias: cast(bias, precision)}
    owned.push(layer.weight, layer.bias)
    return layer
  }
  const scaled = (layer: Linear, ls: {gamma: Tensor1D} | undefined): Linear => {
    if (!fold || !ls) return low(layer)
    const product = scaleRows(layer, ls.gamma)
    const copy = low(product)
    dispose([product.weight, product.bias]) // the copy shares their data where the precision is the same
    return copy
  }
  const block: Block = {
    ...(fold ? {} : {...(ls1 ? {ls1} : {}), ...(ls2 ? {ls2} : {})}),
    ...p,
    attn: {qkv: low(p.attn.qkv), proj: scaled(p.attn.proj, ls1)},
    mlp: 'w12' in p.mlp ? {w12: low(p.mlp.w12), w3: scaled(p.mlp.w3, ls2)} : {fc1: low(p.mlp.fc1), fc2: scaled(p.mlp.fc2, ls2)}
  }
  return {block, owned}
}
