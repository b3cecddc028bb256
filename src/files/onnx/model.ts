/**
 * The part of ONNX that an exported model needs, as plain values, and as the messages of onnx.proto (IR version 8).
 * Field numbers are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
 */
import {PbfWriter} from './pbf.js'

/** Element types of tensors. */
export type OnnxElement = 'float32' | 'float16' | 'int64'

export const elementNumbers: Readonly<Record<OnnxElement, number>> = {float32: 1, int64: 7, float16: 10}

/** Bytes of one element. */
const onnxItemSize: Readonly<Record<OnnxElement, number>> = {float32: 4, int64: 8, float16: 2}

/** JavaScript's numbers do not say whether they are whole numbers or fractions, so an attribute does. */
export type OnnxAttribute = {readonly int: number} | {readonly float: number} | {readonly ints: readonly number[]} | {readonly text: string}

export type OnnxNode = {
  readonly op: string
  readonly inputs: readonly string[]
  readonly outputs: readonly string[]
  readonly attributes: Readonly<Record<string, OnnxAttribute>>
}

/** A tensor of weights or constants, whose bytes (little-endian) are read when their turn to be written comes. */
export type OnnxInitializer = {
  readonly name: string
  readonly element: OnnxElement
  readonly shape: readonly number[]
  read(): Promise<Uint8Array> | Uint8Array
}

/** An input or output of the graph; a length that is free has a name. */
export type OnnxValue = {readonly name: string; readonly element: OnnxElement; readonly shape: readonly (number | string)[]}

export type OnnxGraph = {
  readonly nodes: readonly OnnxNode[]
  readonly initializers: readonly OnnxInitializer[]
  readonly inputs: readonly OnnxValue[]
  readonly outputs: readonly OnnxValue[]
}

export type OnnxModel = {
  readonly graph: OnnxGraph
  /** Version of the set of operators. */
  readonly opset: number
  readonly producer: {readonly name: string; readonly version: string}
  readonly metadata: Readonly<Record<string, string>>
}

/** Where the bytes of a tensor lie, when they are not in the model's own file. */
export type ExternalPlace = {readonly file: string; readonly offset: number; readonly length: number}

/** A length-delimited field begins with this wire type. */
const BYTES = 2
const IR_VERSION = 8

function writeAttribute([name, value]: readonly [string, OnnxAttribute], pbf: PbfWriter): void {
  pbf.writeStringField(1, name)
  if ('float' in value) {
    pbf.writeFloatField(2, value.float)
    pbf.writeVarintField(20, 1)
  } else if ('int' in value) {
    pbf.writeVarintField(3, value.int)
    pbf.writeVarintField(20, 2)
  } else if ('text' in value) {
    pbf.writeBytesField(4, new TextEncoder().encode(value.text))
    pbf.writeVarintField(20, 3)
  } else {
    for (const int of value.ints) pbf.writeVarintField(8, int)
    pbf.writeVarintField(20, 7)
  }
}

function writeNode({op, inputs, outputs, attributes}: OnnxNode, pbf: PbfWriter): void {
  for (const input of inputs) pbf.writeStringField(1, input)
  for (const output of outputs) pbf.writeStringField(2, output)
  pbf.writeStringField(3, outputs[0]!)
  pbf.writeStringField(4, op)
  for (const entry of Object.entries(attributes)) pbf.writeMessage(5, writeAttribute, entry)
}

const writePair = ([key, value]: readonly [string, string], pbf: PbfWriter): void => {
  pbf.writeStringField(1, key)
  pbf.writeStringField(2, value)
}

function writeValue({name, element, shape}: OnnxValue, pbf: PbfWriter): void {
  const dimension = (length: number | string, inner: PbfWriter): void => {
    if (typeof length === 'number') inner.writeVarintField(1, length)
    else inner.writeStringField(2, length)
  }
  const dimensions = (lengths: OnnxValue['shape'], inner: PbfWriter): void => {
    for (const length of lengths) inner.writeMessage(1, dimension, length)
  }
  const tensorType = (_: OnnxValue, inner: PbfWriter): void => {
    inner.writeVarintField(1, elementNumbers[element])
    inner.writeMessage(2, dimensions, shape)
  }
  const type = (value: OnnxValue, inner: PbfWriter): void => inner.writeMessage(1, tensorType, value)
  pbf.writeStringField(1, name)
  pbf.writeMessage(2, type, {name, element, shape})
}

const encoded = (write: (pbf: PbfWriter) => void): Uint8Array => {
  const pbf = new PbfWriter()
  write(pbf)
  return pbf.finish()
}

/** The beginning of a field of `length` bytes, which follow it. */
const fieldStart = (field: number, length: number): Uint8Array =>
  encoded(pbf => {
    pbf.writeTag(field, BYTES)
    pbf.writeVarint(length)
  })

/** What a model consists of besides the bytes of its tensors, in the order of the file. */
export type EncodedModel = {
  /** All before the first tensor. */
  readonly start: Uint8Array
  /** One a tensor: what stands before its bytes, or all of it where they are external. */
  readonly tensors: readonly Uint8Array[]
  /** Bytes of the whole file. */
  readonly length: number
}

/**
 * A model without the bytes of its tensors. `external` says which tensors' bytes lie in another file. Lengths of
 * messages stand before them in the file, and are known from the shapes, so that one tensor is held at a time.
 */
export function encodeModel(
  {graph, opset, producer, metadata}: OnnxModel,
  external: ReadonlyMap<string, ExternalPlace> = new Map()
): EncodedModel {
  const fields = encoded(pbf => {
    for (const node of graph.nodes) pbf.writeMessage(1, writeNode, node)
    pbf.writeStringField(2, 'dinov2')
    for (const input of graph.inputs) pbf.writeMessage(11, writeValue, input)
    for (const output of graph.outputs) pbf.writeMessage(12, writeValue, output)
  })
  const inside = graph.initializers.map(tensor => (external.has(tensor.name) ? 0 : byteLength(tensor)))
  const tensors = graph.initializers.map((tensor, i) => {
    const own = encodeTensor(tensor, external.get(tensor.name))
    return joined([fieldStart(5, own.length + inside[i]!), own])
  })
  const length = tensors.reduce((sum, own, i) => sum + own.length + inside[i]!, fields.length)
  const head = encoded(pbf => {
    pbf.writeVarintField(1, IR_VERSION)
    pbf.writeStringField(2, producer.name)
    pbf.writeStringField(3, producer.version)
    pbf.writeMessage(8, (version: number, inner) => inner.writeVarintField(2, version), opset)
    for (const entry of Object.entries(metadata)) pbf.writeMessage(14, writePair, entry)
  })
  const start = joined([head, fieldStart(7, length), fields])
  return {start, tensors, length: start.length - fields.length + length}
}

/** Bytes of a tensor's elements. */
export const byteLength = ({element, shape}: Pick<OnnxInitializer, 'element' | 'shape'>): number =>
  shape.reduce((product, length) => product * length, onnxItemSize[element])

/** A tensor up to its bytes. */
function encodeTensor({name, element, shape}: OnnxInitializer, place: ExternalPlace | undefined): Uint8Array {
  const described = encoded(pbf => {
    for (const length of shape) pbf.writeVarintField(1, length)
    pbf.writeVarintField(2, elementNumbers[element])
    pbf.writeStringField(8, name)
    if (!place) return
    const {file, offset, length} = place
    for (const entry of Object.entries({location: file, offset: String(offset), length: String(length)}))
      pbf.writeMessage(13, writePair, entry)
    pbf.writeVarintField(14, 1)
  })
  return place ? described : joined([described, fieldStart(9, byteLength({element, shape}))])
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((sum, {length}) => sum + length, 0))
  let at = 0
  for (const part of parts) {
    whole.set(part, at)
    at += part.length
  }
  return whole
}
