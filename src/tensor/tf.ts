/**
 * The one door to TensorFlow.js: everything else in the project imports tensors and operations from here.
 *
 * `@tensorflow/tfjs` is imported once for its side effect (it registers the gradients, which core alone lacks); names
 * come from core. In shape comments, letters are declared at the head of each file.
 */
import '@tensorflow/tfjs'
export * from '@tensorflow/tfjs-core'
