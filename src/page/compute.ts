/** The worker of the page: loads the model, and answers one request after the other. */
import {ready} from '../tensor/tf.js'
import {unflatten} from '../tensor/tree.js'
import {castForInference, type Vit} from '../model/vit.js'
import {analyze, imageVector, type LoadedModel} from './analyze.js'
import {startBackend, threadCount} from './backend.js'
import {floats} from './base64.js'
import {vectorCosine} from './similarity.js'
import type {BackendName, ComputeReply, ComputeRequest, Started} from './protocol.js'
import {checkPicture, type SiteModel} from './site.js'
import {readWeights, tensorsOf} from './weights.js'

/** Below this the page does not compute what the command line computed. */
const LEAST_AGREEMENT = 0.999

const reply = (message: ComputeReply, transfer: Transferable[] = []): void =>
  (self as unknown as {postMessage(message: ComputeReply, transfer: Transferable[]): void}).postMessage(message, transfer)

/** The bytes of a file beside the page; reports how many have come. */
async function load(url: string, total: number, onProgress: (loaded: number) => void): Promise<ArrayBuffer> {
  const response = await fetch(url)
  if (!response.ok || !response.body) throw new Error(`${url} could not be loaded (status ${response.status}).`)
  const out = new Uint8Array(total)
  let at = 0
  for (let reader = response.body.getReader(), next = await reader.read(); !next.done; next = await reader.read()) {
    if (at + next.value.length > total) throw new Error(`${url} is longer than the ${total} bytes that were expected.`)
    out.set(next.value, at)
    at += next.value.length
    onProgress(at)
  }
  if (at !== total) throw new Error(`${url} has ${at} bytes; ${total} were expected.`)
  return out.buffer
}

/** Starts one backend with the model, and compares a vector with that of the command line. */
async function open(bytes: ArrayBuffer, model: SiteModel, base: string, asked: BackendName | undefined) {
  const backend = await startBackend(base, asked)
  await ready()
  const params = unflatten<Vit>(tensorsOf(await readWeights(bytes)))
  const loaded: LoadedModel = {model, params: castForInference(params, 'fp32').params}
  const {side, vector} = model.check
  const features = {...model.features, transform: {resize: side, crop: side}}
  const own = await imageVector({width: side, height: side, data: checkPicture(side)}, loaded, features)
  return {backend, loaded, agreement: vectorCosine(own, floats(vector))}
}

async function start({
  id,
  model,
  base,
  backend: asked
}: ComputeRequest & {kind: 'start'}): Promise<{loaded: LoadedModel; started: Started}> {
  const begun = performance.now()
  const bytes = await load(new URL(model.weights, base).href, model.bytes, loaded =>
    reply({id, kind: 'progress', loaded, total: model.bytes})
  )
  let opened = await open(bytes, model, base, asked)
  let note: string | undefined
  if (opened.backend === 'webgpu' && !(opened.agreement >= LEAST_AGREEMENT)) {
    note = `WebGPU of this browser computes other numbers (cosine ${opened.agreement.toFixed(4)} with the command line), so WebAssembly is used.`
    opened = await open(bytes, model, base, 'wasm')
  }
  const {loaded, backend, agreement} = opened
  const {classifier} = model
  const head = classifier && (await readWeights(await load(new URL(classifier.weights, base).href, classifier.bytes, () => undefined)))
  if (!(agreement >= LEAST_AGREEMENT))
    throw new Error(
      `This browser computes other numbers than the command line did (cosine ${agreement.toFixed(4)}), so the model is not used.`
    )
  return {
    loaded: {...loaded, classifier: head ?? undefined},
    started: {backend, threads: backend === 'wasm' ? threadCount() : 1, seconds: (performance.now() - begun) / 1000, agreement, note}
  }
}

let current: LoadedModel | undefined

async function answer(request: ComputeRequest): Promise<void> {
  const {id} = request
  try {
    if (request.kind === 'start') {
      const {loaded, started} = await start(request)
      current = loaded
      reply({id, kind: 'started', started})
    } else {
      if (!current) throw new Error('The model is not loaded.')
      const analysis = await analyze(request.image, current)
      reply({id, kind: 'analysis', analysis})
    }
  } catch (error) {
    reply({id, kind: 'failed', message: error instanceof Error ? error.message : String(error)})
  }
}

let last = Promise.resolve()
self.addEventListener('message', (event: MessageEvent<ComputeRequest>) => {
  last = last.then(() => answer(event.data))
})
