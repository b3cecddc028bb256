/** The worker that computes, as functions of the page. */
import type {Analysis, BackendName, GivenImage, ComputeReply, ComputeRequest, PatchView, Started} from './protocol.js'
import type {SiteModel} from './site.js'

export type Model = {
  readonly model: SiteModel
  /** Loads the model, once. */
  readonly start: () => Promise<Started>
  readonly analyze: (image: GivenImage) => Promise<Analysis>
  /** The parts of an image alone. */
  readonly patches: (image: GivenImage) => Promise<PatchView>
  /** Called with what is to be said while the model loads. */
  onState: (text: string) => void
}

type Waiting = {readonly done: (reply: ComputeReply) => void; readonly failed: (error: Error) => void}

/** What computes, in words. */
function describeBackend({backend, threads, seconds, agreement, note}: Started, name: string): string {
  const how =
    backend === 'webgpu'
      ? 'WebGPU, on the graphics card'
      : `WebAssembly, on ${threads === 1 ? 'one thread' : `${threads} threads`} of the processor${!crossOriginIsolated ? ' (more need a server that isolates the page, as dinov2 explore --serve does)' : ''}`
  const extra = note ? ` ${note}` : ''
  return `The model ${name} runs in this page by ${how} (ready after ${seconds.toFixed(1)} s; its numbers are those of the command line, cosine ${agreement.toFixed(6)}). Images stay in your browser.${extra}`
}

/** The model of a site; nothing is loaded before it is asked for. */
export function pageModel(model: SiteModel): Model {
  const waiting = new Map<number, Waiting>()
  let worker: Worker | undefined
  let started: Promise<Started> | undefined
  let count = 0
  const ask = (request: (id: number) => ComputeRequest): Promise<ComputeReply> =>
    new Promise((done, failed) => {
      worker ??= open()
      const id = ++count
      waiting.set(id, {done, failed})
      worker.postMessage(request(id))
    })
  const open = (): Worker => {
    const made = new Worker('compute.js')
    made.addEventListener('error', event => {
      for (const {failed} of waiting.values()) failed(new Error(event.message || 'The worker that computes could not be loaded.'))
      waiting.clear()
    })
    made.addEventListener('message', ({data}: MessageEvent<ComputeReply>) => {
      if (data.kind === 'progress') {
        self.onState(`Loading the model: ${(data.loaded / 2 ** 20).toFixed(1)} of ${(data.total / 2 ** 20).toFixed(1)} MB …`)
        return
      }
      if (data.kind === 'restarted') return self.onState(describeBackend(data.started, model.name))
      const {done, failed} = waiting.get(data.id)!
      waiting.delete(data.id)
      if (data.kind === 'failed') failed(new Error(data.message))
      else done(data)
    })
    return made
  }
  const self: Model = {
    model,
    onState: () => undefined,
    start: () =>
      (started ??= (async () => {
        if (location.protocol === 'file:')
          throw new Error(
            'A page that is opened from a disk may not load a model. Show the folder by a web server: dinov2 explore --serve -o FOLDER, or python3 -m http.server.'
          )
        self.onState('Loading the model …')
        const asked = new URLSearchParams(location.search)
        const backend = (asked.get('backend') ?? undefined) as BackendName | undefined
        const threads = Number(asked.get('threads')) || undefined
        const reply = await ask(id => ({id, kind: 'start', base: new URL('.', location.href).href, model, backend, threads}))
        const result = (reply as ComputeReply & {kind: 'started'}).started
        self.onState(describeBackend(result, model.name))
        return result
      })()),
    analyze: async image => {
      await self.start()
      const reply = await ask(id => ({id, kind: 'analyze', image}))
      return (reply as ComputeReply & {kind: 'analysis'}).analysis
    },
    patches: async image => {
      await self.start()
      const reply = await ask(id => ({id, kind: 'patches', image}))
      return (reply as ComputeReply & {kind: 'patches'}).patches
    }
  }
  return self
}
