/**
 * Where what is installed and compiled is kept: folders of the XDG base directory specification, nothing beside the
 * project.
 */
import {existsSync} from 'node:fs'
import {homedir} from 'node:os'
import {dirname, isAbsolute, join} from 'node:path'
import {fileURLToPath} from 'node:url'

type Environment = Readonly<Record<string, string | undefined>>

/** The specification asks that relative values be ignored. */
const folder = (value: string | undefined, fallback: string): string => (value && isAbsolute(value) ? value : join(homedir(), fallback))

/** What cannot be made again without a download: `$XDG_DATA_HOME/dinov2`, by default `~/.local/share/dinov2`. */
export const dataFolder = (env: Environment = process.env): string => join(folder(env['XDG_DATA_HOME'], '.local/share'), 'dinov2')

/** What can be made again by compiling: `$XDG_CACHE_HOME/dinov2`, by default `~/.cache/dinov2`. */
export const cacheFolder = (env: Environment = process.env): string => join(folder(env['XDG_CACHE_HOME'], '.cache'), 'dinov2')

/**
 * The folder of this package, the one that holds `native/`; found upwards from this module, which may run from `dist`.
 */
export function packageFolder(): string {
  let at = dirname(fileURLToPath(import.meta.url))
  while (!(existsSync(join(at, 'package.json')) && existsSync(join(at, 'native')))) {
    const up = dirname(at)
    if (up === at)
      throw new Error(
        `The package folder was not found above ${fileURLToPath(import.meta.url)}: expected one with package.json and native/`
      )
    at = up
  }
  return at
}
