/**
 * The Python that tests use to open our files with other people's libraries: torch, transformers, safetensors,
 * pyarrow, numpy. `make setup` makes it.
 */
import {spawn} from 'node:child_process'
import {once} from 'node:events'
import {existsSync} from 'node:fs'
import {homedir} from 'node:os'
import {join} from 'node:path'
import {createInterface} from 'node:readline'

/** The interpreter of the test environment. Throws a sentence when it is absent: these tests are never skipped. */
export function testPython(): string {
  const folder = join(process.env['XDG_CACHE_HOME'] || join(homedir(), '.cache'), 'dinov2', 'test-python')
  const python = join(folder, 'bin', 'python')
  if (!existsSync(python)) throw new Error(`The Python environment of the tests is absent: ${folder}. Make it with: make setup`)
  return python
}

/** A script of this folder, wherever the compiled test runs from. */
export const scriptOf = (name: string): string => new URL(`../../../test/python/${name}`, import.meta.url).pathname

/**
 * Starts a script that answers each line of its input, a JSON list of words, by one line of JSON. It ends with the
 * test file. An answer that does not come is an error with what the script said on stderr.
 */
export function pythonServer(script: string, env: Readonly<Record<string, string>> = {}) {
  const child = spawn(testPython(), [scriptOf(script)], {env: {...process.env, ...env}})
  let stderr = ''
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
  child.stdin.on('error', () => undefined) // a script that failed reads no more
  const lines = createInterface({input: child.stdout})[Symbol.asyncIterator]()
  let last: Promise<unknown> = Promise.resolve()
  return {
    /** The answer to a request; requests are answered in turn. */
    ask(...words: string[]): Promise<Record<string, unknown>> {
      const answer = last.then(async () => {
        child.stdin.write(JSON.stringify(words) + '\n')
        const {value, done} = await lines.next()
        if (done) throw new Error(`${script} ${words.join(' ')} gave no answer:\n${stderr}`)
        return JSON.parse(value) as Record<string, unknown>
      })
      last = answer.catch(() => undefined)
      return answer
    },
    async end(): Promise<void> {
      child.stdin.end()
      if (child.exitCode === null) await once(child, 'exit')
    }
  }
}
