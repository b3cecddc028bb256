/** The engines by name, fastest first, and the words that belong to each. */

export const ENGINES = ['torch', 'tensorflow', 'wasm'] as const
export type EngineName = (typeof ENGINES)[number]
/** `cpu` is tfjs's plain JavaScript backend: no flag offers it, tests compare plain twins on it. */
export type AnyEngine = EngineName | 'cpu'

/** What each engine is, in one line. */
export const ENGINE_TITLES: Readonly<Record<EngineName, string>> = {
  torch: 'libtorch through the addon of dinov2',
  tensorflow: 'libtensorflow through @tensorflow/tfjs-node-gpu',
  wasm: 'WebAssembly of tfjs, on one thread'
}

/** The command that installs an engine; wasm comes with the package. */
export const INSTALL_COMMANDS: Readonly<Partial<Record<EngineName, string>>> = {
  torch: 'dinov2 engine install torch',
  tensorflow: 'dinov2 engine install tensorflow'
}

/** Number formats that `startEngine` can put in force. */
export const PRECISIONS = ['fp32', 'bf16'] as const
export type Precision = (typeof PRECISIONS)[number]
