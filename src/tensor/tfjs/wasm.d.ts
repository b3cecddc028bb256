/** The bundle of the WebAssembly backend, which registers itself; made by scripts/bundle.js. */
export {getThreadsCount, setThreadsCount, setWasmPaths} from '@tensorflow/tfjs-backend-wasm'
