/** The bundle of core, its gradients and its chained operations; made by scripts/bundle.js. */
export * from '@tensorflow/tfjs-core'
