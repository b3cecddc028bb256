/**
 * Small answers that are kept in the cache folder between processes, because asking again takes time: one JSON object
 * a file.
 */
import {existsSync, readFileSync, renameSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {jsonObjectOr, type JsonObject} from './json.js'
import {cacheFolder} from './paths.js'
import {makeFoldersSync} from './make-folders.js'

/** Where the answers of that name lie. */
export const keptFile = (name: string): string => join(cacheFolder(), name)

/** What is kept under a name; nothing where the file is absent or damaged. */
export const readKeptAnswers = (name: string): JsonObject =>
  (existsSync(keptFile(name)) ? jsonObjectOr(readFileSync(keptFile(name), 'utf8')) : undefined) ?? {}

/** Keeps answers in the place of those before; what cannot be written is asked for again by the next process. */
export function keepAnswers(name: string, answers: JsonObject): void {
  const half = `${keptFile(name)}.${process.pid}`
  try {
    makeFoldersSync(cacheFolder())
    writeFileSync(half, `${JSON.stringify(answers)}\n`, {mode: 0o644})
    renameSync(half, keptFile(name))
  } catch {
    return
  }
}
