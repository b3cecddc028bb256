/** The engines by name, fastest first, and the words that belong to each. */

export const ENGINES = ['torch', 'tensorflow', 'wasm'] as const
export type EngineName = (typeof ENGINES)[number]
/** `cpu` is tfjs's plain JavaScript backend: no flag offers it, tests compare reference implementations on it. */
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

export type Precision = 'fp32' | 'bf16'

/** Number formats that models can compute in, by engine. */
export const PRECISIONS: Readonly<Record<AnyEngine, readonly Precision[]>> = {
  torch: ['fp32', 'bf16'],
  tensorflow: ['fp32'],
  wasm: ['fp32'],
  cpu: ['fp32']
}
