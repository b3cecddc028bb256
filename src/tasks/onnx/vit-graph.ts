/**
 * The vision transformer as a graph of ONNX for images of one size (opset 17). Nothing is resampled in it: positions
 * are brought to the token grid beforehand. LayerScale and the scale of the queries are multiplied into the layers
 * before them.
 *
 * In shape comments: B images (free), Y side of the images, P patch side, N = (Y/P)² patches, R registers, S = 1 + R +
 * N tokens, C width, H heads, K = C/H, F hidden width.
 */
import {elementNumbers, type OnnxElement} from '../../files/onnx/model.js'
import type {VitConfig} from '../../model/config.js'
import {resamplePositionsReference} from '../../model/positions.js'
import type {GraphBuilder} from './graph.js'

/** Parameters of the backbone by Meta's names, read when they are written. */
export type ReadParameter = (name: string) => Promise<Float32Array>

export type VitGraphOptions = {
  readonly config: VitConfig
  /** Side of the images in pixels, a multiple of the patch. */
  readonly side: number
  /** How linear layers are held; the residual stream, its norms and all inputs and outputs are float32. */
  readonly element: OnnxElement
  readonly read: ReadParameter
}

/** The tokens of chosen places of the graph. */
export type VitGraph = {
  /** The normalized images, [B, 3, Y, Y]. */
  readonly pixels: string
  /** All tokens after block i, [B, S, C], with or without the final norm. */
  tokens(block: number, norm: boolean): string
  /** The class token of tokens [B, S, C]: [B, C]. */
  cls(tokens: string, output?: string): string
  /** The patches of tokens [B, S, C]: [B, N, C]. */
  patches(tokens: string, output?: string): string
  /** The same backbone over other normalized images [·, 3, y, y]; weights are shared. */
  over(pixels: string, side: number): VitGraph
}

type Context = VitGraphOptions & {readonly g: GraphBuilder}

const NORM_EPS = 1e-6

/** Adds the nodes of the backbone. `pixels` is normalized: [B, 3, Y, Y] float32. */
export function addVit(g: GraphBuilder, pixels: string, options: VitGraphOptions): VitGraph {
  const {config, side, read} = options
  const context = {...options, g}
  const {width: C, registers: R, patch, depth} = config
  const S = 1 + R + (side / patch) ** 2
  let x = embedPatches(context, pixels)
  const outputs: string[] = []
  for (let i = 0; i < depth; i++) {
    x = g.node('Add', [x, attention(context, `blocks.${i}`, norm(context, x, `blocks.${i}.norm1`), S)])
    x = g.node('Add', [x, feedForward(context, `blocks.${i}`, norm(context, x, `blocks.${i}.norm2`))])
    outputs.push(x)
  }
  const final = ['weight', 'bias'].map(part => g.weight(`norm.${part}`, [C], () => read(`norm.${part}`)))
  const normed = new Map<number, string>()
  return {
    pixels,
    over: (images, length) => addVit(g, images, {...options, side: length}),
    tokens(block, isNormed) {
      if (!isNormed) return outputs[block]!
      const found = normed.get(block) ?? g.node('LayerNormalization', [outputs[block]!, ...final], {epsilon: {float: NORM_EPS}})
      normed.set(block, found)
      return found
    },
    cls: (tokens, output) => g.node('Squeeze', [g.node('Slice', [tokens, g.ints([0]), g.ints([1]), g.ints([1])]), g.ints([1])], {}, output),
    patches: (tokens, output) => g.node('Slice', [tokens, g.ints([1 + R]), g.ints([S]), g.ints([1])], {}, output)
  }
}

/** Patches embedded, positions added, class and register tokens before them: [B, S, C]. */
function embedPatches({g, config, side, element, read}: Context, pixels: string): string {
  const {width: C, patch: P, registers: R} = config
  const rows = side / P
  const kernel = g.weight('patch_embed.proj.weight', [C, 3, P, P], () => read('patch_embed.proj.weight'), element)
  const bias = g.weight('patch_embed.proj.bias', [C], () => read('patch_embed.proj.bias'), element)
  const grid = g.node('Conv', [castTo(g, pixels, 'float32', element), kernel, bias], {
    strides: {ints: [P, P]},
    kernel_shape: {ints: [P, P]}
  }) // [B, C, Y/P, Y/P]
  const flat = g.node('Reshape', [castTo(g, grid, element, 'float32'), g.ints([0, C, rows * rows])])
  const embedded = g.node('Transpose', [flat], {perm: {ints: [0, 2, 1]}}) //                       [B, N, C]
  const positions = g.weight(`pos_embed.${rows}x${rows}`, [1, rows * rows, C], async () =>
    resamplePositionsReference((await read('pos_embed')).subarray(C), config, rows, rows)
  )
  const prefix = g.weight('prefix_tokens', [1, 1 + R, C], async () => {
    const [cls, own] = [await read('cls_token'), await read('pos_embed')]
    const tokens = new Float32Array((1 + R) * C)
    for (let c = 0; c < C; c++) tokens[c] = cls[c]! + own[c]!
    if (R > 0) tokens.set(await read('register_tokens'), C)
    return tokens
  })
  const batch = g.node('Shape', [pixels], {start: {int: 0}, end: {int: 1}})
  const shape = g.node('Concat', [batch, g.ints([1 + R, C])], {axis: {int: 0}})
  return g.node('Concat', [g.node('Expand', [prefix, shape]), g.node('Add', [embedded, positions])], {axis: {int: 1}})
}

/** LayerNorm in float32, its result held as linear layers are. */
function norm({g, config: {width}, element, read}: Context, x: string, name: string): string {
  const [weight, bias] = ['weight', 'bias'].map(part => g.weight(`${name}.${part}`, [width], () => read(`${name}.${part}`)))
  return castTo(g, g.node('LayerNormalization', [x, weight!, bias!], {epsilon: {float: NORM_EPS}}), 'float32', element)
}

type LinearLayer = {
  readonly name: string
  readonly from: number
  readonly to: number
  /** Factors of the outputs, multiplied into weight and bias. */
  readonly factors?: () => Promise<Float32Array>
}

/** x·Wᵀ + b, the weight turned to [from, to]. */
function linear({g, element, read}: Context, x: string, {name, from, to, factors}: LinearLayer): string {
  const weight = g.weight(
    `${name}.weight`,
    [from, to],
    async () => transposed(await read(`${name}.weight`), to, from, await factors?.()),
    element
  )
  const bias = g.weight(
    `${name}.bias`,
    [to],
    async () => {
      const [data, own] = [await read(`${name}.bias`), await factors?.()]
      return own ? data.map((value, i) => value * own[i]!) : data
    },
    element
  )
  return g.node('Add', [g.node('MatMul', [x, weight]), bias])
}

/** [rows, columns] → [columns, rows], row i times factor i. */
export function transposed(data: Float32Array, rows: number, columns: number, factors?: Float32Array): Float32Array {
  const out = new Float32Array(data.length)
  for (let i = 0; i < rows; i++) {
    const factor = factors ? factors[i]! : 1
    for (let j = 0; j < columns; j++) out[j * rows + i] = data[i * columns + j]! * factor
  }
  return out
}

/** The attention branch from normed tokens to what is added to the residual stream, [B, S, C] float32. */
function attention(context: Context, block: string, x: string, S: number): string {
  const {g, config, element, read} = context
  const {width: C, heads: H} = config
  const K = C / H
  const factors = async (): Promise<Float32Array> => Float32Array.from({length: 3 * C}, (_, i) => (i < C ? K ** -0.5 : 1))
  const qkv = linear(context, x, {name: `${block}.attn.qkv`, from: C, to: 3 * C, factors}) //      [B, S, 3C]
  const parts = g.multi('Split', [qkv, g.ints([C, C, C])], {axis: {int: 2}}, 3)
  const [q, k, v] = parts.map((part, i) =>
    g.node('Transpose', [g.node('Reshape', [part, g.ints([0, S, H, K])])], {perm: {ints: i === 1 ? [0, 2, 3, 1] : [0, 2, 1, 3]}})
  )
  const weights = g.node('Softmax', [g.node('MatMul', [q!, k!])], {axis: {int: 3}}) //             [B, H, S, S]
  const mixed = g.node('Transpose', [g.node('MatMul', [weights, v!])], {perm: {ints: [0, 2, 1, 3]}}) // [B, S, H, K]
  const gamma = config.layerScale ? () => read(`${block}.ls1.gamma`) : undefined
  const out = linear(context, g.node('Reshape', [mixed, g.ints([0, S, C])]), {
    name: `${block}.attn.proj`,
    from: C,
    to: C,
    factors: gamma
  })
  return castTo(g, out, element, 'float32')
}

/** The feed-forward branch: two layers with exact GELU, or SwiGLU. */
function feedForward(context: Context, block: string, x: string): string {
  const {g, config, element, read} = context
  const {width: C, hidden: F, ffn, layerScale} = config
  const factors = layerScale ? () => read(`${block}.ls2.gamma`) : undefined
  const [first, last] = ffn === 'swiglu' ? ['w12', 'w3'] : ['fc1', 'fc2']
  const pre = linear(context, x, {name: `${block}.mlp.${first}`, from: C, to: ffn === 'swiglu' ? 2 * F : F})
  const hidden = ffn === 'swiglu' ? swiglu(g, pre, F) : geluNodes(g, pre, element)
  return castTo(g, linear(context, hidden, {name: `${block}.mlp.${last}`, from: F, to: C, factors}), element, 'float32')
}

/** x·½·(1 + erf(x/√2)), in the order of operations that onnxruntime fuses into one. */
export function geluNodes(g: GraphBuilder, x: string, element: OnnxElement): string {
  const erf = g.node('Erf', [g.node('Div', [x, g.scalar(Math.SQRT2, element)])])
  const open = g.node('Mul', [x, g.node('Add', [erf, g.scalar(1, element)])])
  return g.node('Mul', [open, g.scalar(0.5, element)])
}

/** SiLU of the first half times the second. */
function swiglu(g: GraphBuilder, x: string, F: number): string {
  const [a, b] = g.multi('Split', [x, g.ints([F, F])], {axis: {int: 2}}, 2)
  return g.node('Mul', [g.node('Mul', [a!, g.node('Sigmoid', [a!])]), b!])
}

/** x as another type; x itself where it is held so. */
const castTo = (g: GraphBuilder, x: string, from: OnnxElement, to: OnnxElement): string =>
  from === to ? x : g.node('Cast', [x], {to: {int: elementNumbers[to]}})
