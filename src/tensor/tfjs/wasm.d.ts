/** The bundle of the WebAssembly backend, which registers itself; made by scripts/bundle.js. */
export {setWasmPaths} from '@tensorflow/tfjs-backend-wasm'
