/** Sessions that do as their file is called: for tests of threads that may be ended. */
import {threadId} from 'node:worker_threads'
import {serveSessions} from '../../src/system/guarded-sessions.js'

serveSessions<string, 'read', number>(deed => ({
  async answer() {
    if (deed === 'refuse') throw new Error('the file is cut off\nand more')
    if (deed === 'trap') throw new TypeError('unreachable')
    if (deed === 'leave') process.exit(3)
    while (deed === 'spin');
    if (deed === 'wait') await new Promise(() => undefined)
    return threadId
  },
  async close() {
    if (deed === 'fail late') setImmediate(() => process.exit(4))
    return deed !== 'large'
  }
}))
