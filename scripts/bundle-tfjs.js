/**
 * Bundles what this project uses of TensorFlow.js into `dist/src/tensor/tfjs`: core with the gradients and chained operations that it
 * leaves to the union package, the plain JavaScript backend, and the WebAssembly backend with its binaries.
 *
 * The packages weigh 66 MB, most of it other builds of the same code for other readers, and Node cannot import
 * the files of core one by one (they name one another without endings). The bundles weigh 3 MB and load in one read.
 * Engine, kernels and gradients lie in the global scope, so that another copy of core, such as the one that
 * `@tensorflow/tfjs-node-gpu` brings, shares them.
 */
import {copyFile, mkdir, rm} from 'node:fs/promises'
import {fileURLToPath} from 'node:url'
import {build} from 'esbuild'

const root = fileURLToPath(new URL('..', import.meta.url))
const packages = `${root}node_modules/@tensorflow`
const out = `${root}dist/src/tensor/tfjs`

const core = '@tensorflow/tfjs-core'
/** Each entry as the text of a module. */
const entries = {
  core: `export * from '${core}'
    import './node_modules/${core}/dist/register_all_gradients'
    import './node_modules/${core}/dist/public/chained_ops/register_all_chained_ops'`,
  cpu: `export * from '@tensorflow/tfjs-backend-cpu'`,
  wasm: `export {setWasmPaths} from '@tensorflow/tfjs-backend-wasm'`,
  version: `export {version} from '@tensorflow/tfjs-backend-wasm/package.json'`
}

/** What ES modules lack and the WebAssembly loader, written for CommonJS, looks for. */
const banner = `import {createRequire as __createRequire} from 'node:module'
import {fileURLToPath as __fileURLToPath} from 'node:url'
const require = __createRequire(import.meta.url)
const __filename = __fileURLToPath(import.meta.url)
const __dirname = __fileURLToPath(new URL('.', import.meta.url))`

await rm(out, {recursive: true, force: true})
await mkdir(out, {recursive: true})
const {metafile} = await build({
  entryPoints: Object.keys(entries).map(name => ({in: `entry:${name}`, out: name})),
  plugins: [
    {
      name: 'entries',
      setup(plugin) {
        plugin.onResolve({filter: /^entry:/}, ({path}) => ({path: path.slice('entry:'.length), namespace: 'entry'}))
        plugin.onLoad({filter: /.*/, namespace: 'entry'}, ({path}) => ({contents: entries[path], resolveDir: root}))
        // Node has fetch itself; nothing here fetches through TensorFlow.js.
        plugin.onResolve({filter: /^node-fetch$/}, ({path}) => ({path, namespace: 'fetch'}))
        plugin.onLoad({filter: /.*/, namespace: 'fetch'}, () => ({contents: 'module.exports = globalThis.fetch'}))
      }
    }
  ],
  outdir: out,
  bundle: true,
  splitting: true,
  minify: true,
  format: 'esm',
  platform: 'node',
  mainFields: ['module', 'main'],
  target: 'node20',
  banner: {js: banner},
  ignoreAnnotations: true,
  legalComments: 'none', // they stand in THIRD-PARTY-LICENSES
  metafile: true,
  logLevel: 'error'
})
for (const build of ['tfjs-backend-wasm', 'tfjs-backend-wasm-simd'])
  await copyFile(`${packages}/tfjs-backend-wasm/dist/${build}.wasm`, `${out}/${build}.wasm`)

/** The packages whose code came into the bundles. */
export const bundled = [
  ...new Set(Object.keys(metafile.inputs).flatMap(path => /^node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)?.[1] ?? []))
].sort()
