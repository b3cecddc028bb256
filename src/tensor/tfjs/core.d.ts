/** The bundle of core, its gradients and its chained operations; made by scripts/bundle-tfjs.js. */
export * from '@tensorflow/tfjs-core'
