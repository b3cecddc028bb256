/** The bundle of the WebGPU backend, which registers itself; in the page alone, made by scripts/bundle.js. */
export {}
