/** The worker of the page: loads the model, and answers one request after the other. */
import type {Linear} from '../tensor/ops/linear.js'
import {ready} from '../tensor/tf.js'
import {unflatten} from '../tensor/tree.js'
import {castForInference, type Vit} from '../model/vit.js'
import {analyze, siteVectors, viewPatches, type LoadedModel} from './analyze.js'
import {hasGpu, startBackend, threadCount} from './backend.js'
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

type StartRequest = ComputeRequest & {kind: 'start'}

/** A model that computes, and by what. */
type Opened = {readonly backend: BackendName; readonly loaded: LoadedModel; readonly agreement: number}

/** The files of a site's model. */
type ModelBytes = {
  readonly backbone: ArrayBuffer
  readonly heads: Readonly<Record<'classifier' | 'depth' | 'regions', ArrayBuffer | undefined>>
}

/** Loads all files; reports how many bytes of the backbone have come. */
async function loadAll(model: SiteModel, base: string, onProgress: (loaded: number) => void): Promise<ModelBytes> {
  const from = (name: string): string => new URL(name, base).href
  const head = async (file: {readonly weights: string; readonly bytes: number} | null): Promise<ArrayBuffer | undefined> =>
    file ? load(from(file.weights), file.bytes, () => undefined) : undefined
  const [classifier, depth, regions] = await Promise.all([head(model.classifier), head(model.depth), head(model.regions)])
  return {backbone: await load(from(model.weights), model.bytes, onProgress), heads: {classifier, depth, regions}}
}

/** Starts one backend with the model, and compares a vector with that of the command line. */
async function open({backbone, heads}: ModelBytes, {model, base, threads}: StartRequest, backend: BackendName): Promise<Opened> {
  await startBackend(backend, {base, config: model.config, threads})
  await ready()
  const params = unflatten<Vit>(tensorsOf(await readWeights(backbone)))
  const layer = async (bytes: ArrayBuffer | undefined): Promise<Linear | undefined> =>
    bytes && unflatten<Linear>(tensorsOf(await readWeights(bytes)))
  const depth = await layer(heads.depth)
  const loaded: LoadedModel = {
    model,
    params: castForInference(params, 'fp32').params,
    classifier: heads.classifier && (await readWeights(heads.classifier)),
    depth: depth && {conv_depth: depth},
    regions: await layer(heads.regions)
  }
  const {side, vector} = model.check
  const features = {...model.features, transform: {resize: side, crop: side}}
  const [own] = await siteVectors({width: side, height: side, data: checkPicture(side)}, loaded, [features])
  return {backend, loaded, agreement: vectorCosine(own!, floats(vector))}
}

/**
 * Starts the fastest backend whose numbers are those of the command line: WebGPU, or WebAssembly with a sentence that
 * says why WebGPU is not used. Throws an Error where none computes them.
 */
async function openBest(bytes: ModelBytes, request: StartRequest): Promise<Opened & {note?: string}> {
  const {backend: asked} = request
  let note: string | undefined
  if (asked === 'webgpu' || (asked === undefined && (await hasGpu()))) {
    try {
      const opened = await open(bytes, request, 'webgpu')
      if (opened.agreement >= LEAST_AGREEMENT) return opened
      note = `WebGPU of this browser computes other numbers (cosine ${opened.agreement.toFixed(4)} with the command line), so WebAssembly is used.`
    } catch (error) {
      note = `WebGPU of this browser does not work (${clause(error)}), so WebAssembly is used.`
    }
  }
  const opened = await open(bytes, request, 'wasm')
  if (opened.agreement >= LEAST_AGREEMENT) return {...opened, note}
  throw new Error(
    `This browser computes other numbers than the command line did (cosine ${opened.agreement.toFixed(4)}), so the model is not used.`
  )
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error))
/** An error as part of a sentence. */
const clause = (error: unknown): string => messageOf(error).replace(/\.$/, '')

type Session = Opened & {readonly request: StartRequest; readonly bytes: ModelBytes}

const startedBy = ({backend, agreement, note}: Opened & {note?: string}, begun: number): Started => ({
  backend,
  threads: backend === 'wasm' ? threadCount() : 1,
  seconds: (performance.now() - begun) / 1000,
  agreement,
  note
})

async function start(request: StartRequest): Promise<{session: Session; started: Started}> {
  const {id, model, base} = request
  const begun = performance.now()
  const bytes = await loadAll(model, base, loaded => reply({id, kind: 'progress', loaded, total: model.bytes}))
  const opened = await openBest(bytes, request)
  return {session: {...opened, request, bytes}, started: startedBy(opened, begun)}
}

/** Goes on with WebAssembly after WebGPU failed in the middle of its work, e.g. because the device was lost. */
async function goOnWithWasm({request, bytes}: Session, error: unknown): Promise<Session> {
  const begun = performance.now()
  const opened = await openBest(bytes, {...request, backend: 'wasm'})
  const note = `WebGPU of this browser stopped (${clause(error)}), so WebAssembly is used.`
  reply({id: request.id, kind: 'restarted', started: startedBy({...opened, note}, begun)})
  return {...opened, request, bytes}
}

let current: Session | undefined

async function compute({id, kind, image}: ComputeRequest & {kind: 'analyze' | 'patches'}, {loaded}: Session): Promise<void> {
  if (kind === 'analyze') reply({id, kind: 'analysis', analysis: await analyze(image, loaded)})
  else reply({id, kind, patches: await viewPatches(image, loaded)})
}

async function answer(request: ComputeRequest): Promise<void> {
  const {id} = request
  try {
    if (request.kind === 'start') {
      const {session, started} = await start(request)
      current = session
      return reply({id, kind: 'started', started})
    }
    if (!current) throw new Error('The model is not loaded.')
    try {
      await compute(request, current)
    } catch (error) {
      if (current.backend !== 'webgpu') throw error
      current = await goOnWithWasm(current, error)
      await compute(request, current)
    }
  } catch (error) {
    reply({id, kind: 'failed', message: messageOf(error)})
  }
}

let last = Promise.resolve()
self.addEventListener('message', (event: MessageEvent<ComputeRequest>) => {
  last = last.then(() => answer(event.data))
})
