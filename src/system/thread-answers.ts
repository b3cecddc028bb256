/** The other side of `Thread`: what a module that runs in a thread does with requests. */
import {parentPort} from 'node:worker_threads'

export type Reply<Answer> = {readonly answer: Answer} | {readonly error: string; readonly kind: string; readonly stack: string | undefined}

function replyOf(error: unknown): Reply<never> {
  if (!(error instanceof Error)) return {error: String(error), kind: 'Error', stack: undefined}
  return {error: error.message, kind: error.constructor.name, stack: error.stack}
}

/**
 * Answers the requests of this thread one after the other: memory stays that of one. What `handle` throws is what the
 * request ends with. `moved` names the buffers of an answer that are handed over instead of being copied.
 */
export function answerRequests<Request, Answer>(
  handle: (request: Request) => Answer | Promise<Answer>,
  moved: (answer: Answer) => readonly ArrayBuffer[] = () => []
): void {
  const port = parentPort!
  let last: Promise<void> = Promise.resolve()
  port.on('message', (request: Request) => {
    last = last.then(async () => {
      try {
        const answer = await handle(request)
        port.postMessage({answer} satisfies Reply<Answer>, [...new Set(moved(answer))])
      } catch (error) {
        port.postMessage(replyOf(error))
      }
    })
  })
}
