/**
 * Places that the tests of files share: the recorded tensors under test/golden, and a folder that vanishes with the
 * test.
 */
import {existsSync} from 'node:fs'
import {mkdtemp, rm} from 'node:fs/promises'
import {tmpdir} from 'node:os'
import {dirname, join} from 'node:path'
import type {TestContext} from 'node:test'

/** The root of the project, found upwards from the compiled test. */
export function projectFolder(): string {
  let at = import.meta.dirname
  while (!existsSync(join(at, 'package.json'))) at = dirname(at)
  return at
}

export const golden = (name: string): string => join(projectFolder(), 'test', 'golden', name)

export async function scratch(t: TestContext): Promise<string> {
  const folder = await mkdtemp(join(tmpdir(), 'dinov2-files-'))
  t.after(() => rm(folder, {recursive: true, force: true}))
  return folder
}
