/**
 * Bundles the gradients and chained operations of TensorFlow.js, which `@tensorflow/tfjs-core` holds in files that Node cannot import by
 * themselves (they name one another without endings), into one module beside the compiled `tensor/tf.js`.
 *
 * The union package `@tensorflow/tfjs` registers the same gradients, but brings layers, converters and a WebGL backend
 * along. The bundle shares engine, kernels and gradients with the package, which keeps them in the global scope.
 */
import {fileURLToPath} from 'node:url'
import {build} from 'esbuild'

const root = fileURLToPath(new URL('..', import.meta.url))

const core = './node_modules/@tensorflow/tfjs-core/dist'
const names = [`${core}/register_all_gradients`, `${core}/public/chained_ops/register_all_chained_ops`]

await build({
  // The package itself comes first, so that the engine and the class of tensors are its own.
  stdin: {contents: ['@tensorflow/tfjs-core', ...names].map(name => `import '${name}'`).join('\n'), resolveDir: root},
  external: ['@tensorflow/tfjs-core'],
  outfile: `${root}/dist/src/tensor/tfjs-gradients.js`,
  bundle: true,
  minify: true,
  format: 'esm',
  platform: 'node',
  target: 'node20',
  ignoreAnnotations: true,
  legalComments: 'eof',
  logLevel: 'warning'
})
