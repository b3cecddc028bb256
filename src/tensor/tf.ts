/**
 * The one door to TensorFlow.js: everything else in the project imports tensors and operations from here.
 *
 * `tfjs/` holds TensorFlow.js as `npm run build` bundles it (scripts/bundle.js): core with its gradients and the
 * forms of operations as methods, and the two backends that the wasm engine loads. In shape comments, letters are
 * declared at the head of each file.
 */
import type {} from '@tensorflow/tfjs-core/dist/public/chained_ops/register_all_chained_ops.js'
export * from './tfjs/core.js'
