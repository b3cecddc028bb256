/** A graph of ONNX that grows node by node. Names of outputs are made from operators and a counter. */
import {float16Bytes, float32Bytes} from '../../files/checkpoint/tensor-entry.js'
import type {OnnxAttribute, OnnxElement, OnnxInitializer, OnnxNode} from '../../files/onnx/model.js'

/** Numbers of a parameter, read when they are written. */
export type ReadNumbers = () => Promise<Float32Array> | Float32Array

export type Attributes = Readonly<Record<string, OnnxAttribute>>

export type GraphBuilder = {
  readonly nodes: OnnxNode[]
  readonly initializers: OnnxInitializer[]
  /** Adds a node of one output and returns the output's name, which is `output` where that is given. */
  node(op: string, inputs: readonly string[], attributes?: Attributes, output?: string): string
  /** Adds a node of several outputs. */
  multi(op: string, inputs: readonly string[], attributes: Attributes, count: number): string[]
  /** Adds a parameter, or finds the one of this name. */
  weight(name: string, shape: readonly number[], read: ReadNumbers, element?: OnnxElement): string
  /** Whole numbers, e.g. a shape: the same ones are one constant. */
  ints(values: readonly number[]): string
  /** One number: the same one is one constant. */
  scalar(value: number, element?: OnnxElement): string
}

export function createGraph(): GraphBuilder {
  const nodes: OnnxNode[] = []
  const initializers: OnnxInitializer[] = []
  const constants = new Map<string, string>()
  const weights = new Set<string>()
  let count = 0
  const outputName = (op: string): string => `${op}_${++count}`
  const numbers = (element: OnnxElement, data: Float32Array): Uint8Array =>
    element === 'float16' ? float16Bytes(data) : float32Bytes(data)
  const constant = (key: string, make: (name: string) => OnnxInitializer): string => {
    const found = constants.get(key)
    if (found !== undefined) return found
    const name = `constant_${constants.size}`
    initializers.push(make(name))
    constants.set(key, name)
    return name
  }
  return {
    nodes,
    initializers,
    node(op, inputs, attributes = {}, output = outputName(op)) {
      nodes.push({op, inputs, outputs: [output], attributes})
      return output
    },
    multi(op, inputs, attributes, length) {
      const outputs = Array.from({length}, () => outputName(op))
      nodes.push({op, inputs, outputs, attributes})
      return outputs
    },
    weight(name, shape, read, element = 'float32') {
      if (!weights.has(name)) initializers.push({name, shape, element, read: async () => numbers(element, await read())})
      weights.add(name)
      return name
    },
    ints: values =>
      constant(`int64 ${values.join()}`, name => ({
        name,
        shape: [values.length],
        element: 'int64',
        read: () => new Uint8Array(BigInt64Array.from(values, BigInt).buffer)
      })),
    scalar: (value, element = 'float32') =>
      constant(`${element} ${value}`, name => ({name, shape: [], element, read: () => numbers(element, Float32Array.of(value))}))
  }
}
