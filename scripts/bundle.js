/**
 * Bundles what this project uses of oclif (`dist/src/cli/oclif.js`), of pbf (`dist/src/files/onnx/pbf.js`) and of TensorFlow.js (`dist/src/tensor/tfjs`): core with the
 * gradients and chained operations that it leaves to the union package, the plain JavaScript backend, and the WebAssembly backend with its
 * binaries. Then the page of `dinov2 explore` (`src/page`): its script, and the worker in which the model computes.
 *
 * The packages of TensorFlow.js weigh 66 MB, most of it other builds of the same code for other readers, and Node
 * cannot import the files of core one by one (they name one another without endings). The bundles weigh 2 MB. Engine,
 * kernels and gradients lie in the global scope, so that another copy of core, such as the one that
 * `@tensorflow/tfjs-node-gpu` brings, shares them. oclif and what it needs are 200 files of 35 packages, whose opening
 * took most of the time of `--help`. Last the program itself (`bundle-program.js`).
 */
import {copyFile, mkdir, rm, writeFile} from 'node:fs/promises'
import {basename} from 'node:path'
import {fileURLToPath} from 'node:url'
import {build} from 'esbuild'
import {bundleProgram} from './bundle-program.js'

const root = fileURLToPath(new URL('..', import.meta.url))
const packages = `${root}node_modules/@tensorflow`
const folder = `${root}dist/src/tensor/tfjs`
const core = '@tensorflow/tfjs-core'

/** The text of each entry, by its path below `dist/src`. */
const oclif = {'cli/oclif': `export {Args, Command, CommandHelp, Config, Errors, Flags, Help, Plugin, settings} from '@oclif/core'`}
const pbf = {'files/onnx/pbf': `export {PbfReader, PbfWriter} from 'pbf'`}
const tfjs = {
  'tensor/tfjs/core': `export * from '${core}'
    import './node_modules/${core}/dist/register_all_gradients'
    import './node_modules/${core}/dist/public/chained_ops/register_all_chained_ops'`,
  'tensor/tfjs/cpu': `export * from '@tensorflow/tfjs-backend-cpu'`,
  'tensor/tfjs/wasm': `export {getThreadsCount, setThreadsCount, setWasmPaths} from '@tensorflow/tfjs-backend-wasm'`,
  'tensor/tfjs/version': `export {version} from '@tensorflow/tfjs-backend-wasm/package.json'`
}

/** TensorFlow.js as the page has it: nothing is differentiated there, and WebGPU is at hand. */
const tfjsOfPage = {
  core: `export * from '${core}'
    import './node_modules/${core}/dist/public/chained_ops/register_all_chained_ops'`,
  wasm: tfjs['tensor/tfjs/wasm'],
  webgpu: `import '@tensorflow/tfjs-backend-webgpu'`
}

/** What ES modules lack and code written for CommonJS looks for. */
const banner = `import {createRequire as __createRequire} from 'node:module'
import {fileURLToPath as __fileURLToPath} from 'node:url'
const require = __createRequire(import.meta.url)
const __filename = __fileURLToPath(import.meta.url)
const __dirname = __fileURLToPath(new URL('.', import.meta.url))`

const modules = entries => ({
  name: 'modules',
  setup(plugin) {
    plugin.onResolve({filter: /^entry:/}, ({path}) => ({path: path.slice('entry:'.length), namespace: 'entry'}))
    plugin.onLoad({filter: /.*/, namespace: 'entry'}, ({path}) => ({contents: entries[path], resolveDir: root}))
    // Node has fetch itself; nothing here fetches through TensorFlow.js.
    plugin.onResolve({filter: /^node-fetch$/}, ({path}) => ({path, namespace: 'fetch'}))
    plugin.onLoad({filter: /.*/, namespace: 'fetch'}, () => ({contents: 'module.exports = globalThis.fetch'}))
  }
})

const packagesOf = ({inputs}) => Object.keys(inputs).flatMap(path => /^(?:.*\/)?node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(path)?.[1] ?? [])

/** Bundles the entries; → the packages whose code came into the bundles. */
async function bundle(entries, options) {
  const {metafile} = await build({
    entryPoints: Object.keys(entries).map(path => ({in: `entry:${path}`, out: path})),
    plugins: [modules(entries)],
    outdir: `${root}dist/src`,
    bundle: true,
    splitting: true,
    minify: true,
    format: 'esm',
    platform: 'node',
    target: 'node20',
    banner: {js: banner},
    legalComments: 'none', // they stand in THIRD-PARTY-LICENSES
    metafile: true,
    logLevel: 'error',
    ...options
  })
  return packagesOf(metafile)
}

/** Bundles the page from its sources, which ask for TensorFlow.js by the same door as everything else. */
async function bundlePage() {
  const target = `${root}dist/src/page/files`
  await rm(target, {recursive: true, force: true})
  const {metafile} = await build({
    entryPoints: {page: `${root}src/page/page.ts`, compute: `${root}src/page/compute.ts`},
    plugins: [
      {
        name: 'tensorflow',
        setup(plugin) {
          plugin.onResolve({filter: /\/tfjs\/(core|wasm|webgpu)\.js$/}, ({path}) => ({
            path: basename(path, '.js'),
            namespace: 'tensorflow'
          }))
          plugin.onLoad({filter: /.*/, namespace: 'tensorflow'}, ({path}) => ({contents: tfjsOfPage[path], resolveDir: root}))
        }
      }
    ],
    outdir: target,
    bundle: true,
    minify: true,
    format: 'iife',
    platform: 'browser',
    target: ['chrome113', 'firefox115', 'safari16.4'],
    mainFields: ['module', 'browser', 'main'],
    ignoreAnnotations: true,
    legalComments: 'none',
    metafile: true,
    logLevel: 'error'
  })
  for (const name of ['index.html', 'style.css']) await copyFile(`${root}src/page/${name}`, `${target}/${name}`)
  for (const name of ['tfjs-backend-wasm-threaded-simd'])
    // the others lie beside the bundle of the engine
    await copyFile(`${packages}/tfjs-backend-wasm/dist/${name}.wasm`, `${target}/${name}.wasm`)
  return packagesOf(metafile)
}

await rm(folder, {recursive: true, force: true})
await mkdir(folder, {recursive: true})
const found = [
  ...(await bundle(oclif, {splitting: false, external: ['typescript']})),
  ...(await bundle(pbf, {splitting: false})),
  ...(await bundle(tfjs, {mainFields: ['module', 'main'], ignoreAnnotations: true, chunkNames: 'tensor/tfjs/[name]-[hash]'})),
  ...(await bundlePage())
]
for (const name of ['tfjs-backend-wasm', 'tfjs-backend-wasm-simd'])
  await copyFile(`${packages}/tfjs-backend-wasm/dist/${name}.wasm`, `${folder}/${name}.wasm`)

// The types of the library, which are written by hand.
await mkdir(`${root}dist/src/tasks`, {recursive: true})
await copyFile(`${root}src/tasks/dinov2.d.ts`, `${root}dist/src/tasks/dinov2.d.ts`)

// The packages whose code is in the bundles, for THIRD-PARTY-LICENSES.
await writeFile(`${root}dist/bundled.json`, JSON.stringify([...new Set(found)].sort()))

await bundleProgram()
