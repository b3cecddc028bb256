/**
 * The one door to TensorFlow.js: everything else in the project imports tensors and operations from here.
 *
 * Core registers neither the gradients of its operations nor their forms as methods; the bundle `tfjs-gradients.js`,
 * which `npm run build` makes from core's own files (scripts/bundle-gradients.js), does. In shape comments, letters
 * are declared at the head of each file.
 */
import type {} from '@tensorflow/tfjs-core/dist/public/chained_ops/register_all_chained_ops.js'
import './tfjs-gradients.js'
export * from '@tensorflow/tfjs-core'
