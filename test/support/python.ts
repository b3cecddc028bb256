/**
 * The Python that tests use to open our files with other people's libraries: torch, transformers, safetensors,
 * pyarrow, numpy. `make setup` makes it.
 */
import {existsSync} from 'node:fs'
import {homedir} from 'node:os'
import {join} from 'node:path'

/** The interpreter of the test environment. Throws a sentence when it is absent: these tests are never skipped. */
export function testPython(): string {
  const folder = join(process.env['XDG_CACHE_HOME'] || join(homedir(), '.cache'), 'dinov2', 'test-python')
  const python = join(folder, 'bin', 'python')
  if (!existsSync(python)) throw new Error(`The Python environment of the tests is absent: ${folder}. Make it with: make setup`)
  return python
}

/** A script of this folder, wherever the compiled test runs from. */
export const scriptOf = (name: string): string => new URL(`../../../test/python/${name}`, import.meta.url).pathname
