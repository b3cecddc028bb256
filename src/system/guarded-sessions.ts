/** The other side of `GuardedWorker`: reads one file after the other, each by a session. */
import {setImmediate as turn} from 'node:timers/promises'
import {answerRequests} from './thread-answers.js'

/** What is asked of a thread; the open file is what the requests after it are about. */
export type SessionRequest = {readonly open: unknown} | {readonly ask: unknown} | 'close'

/** The reading of one file. */
export type Session<Request, Answer> = {
  answer(request: Request): Promise<Answer>
  /** Gives back what is held of the file; false where the thread should read no other. */
  close(): Promise<boolean>
}

/** Answers for each file that is opened by the session that `begin` makes of it, which reads nothing yet. */
export function serveSessions<Job, Request, Answer>(
  begin: (job: Job) => Session<Request, Answer>,
  moved?: (answer: Answer) => readonly ArrayBuffer[]
): void {
  let session: Session<Request, Answer> | undefined
  answerRequests<SessionRequest, unknown>(
    async request => {
      if (request === 'close') {
        const isSound = await session!.close()
        await turn() // a decoder that fails behind its answer ends this thread now, not while it reads the next file
        return isSound
      }
      if ('ask' in request) return session!.answer(request.ask as Request)
      session = begin(request.open as Job)
      return undefined
    },
    answer => (answer === undefined || typeof answer === 'boolean' ? [] : (moved?.(answer as Answer) ?? []))
  )
}
