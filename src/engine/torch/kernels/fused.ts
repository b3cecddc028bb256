/** Kernels of this project's own fused operations. */
export {}
