/**
 * Files of settings, in YAML or JSON: each value with its dotted name and its line.
 *
 * They come from other people too, so length, depth, number of names and what aliases unfold to are bounded.
 */
import {isUtf8} from 'node:buffer'
import {readFileSync, statSync} from 'node:fs'
import {isAlias, isMap, isScalar, isSeq, LineCounter, parseDocument, type Document, type Pair, type YAMLMap} from 'yaml'
import {UserError} from './errors.js'

/** Every setting with a comment takes a tenth of this. */
const MAX_CHARACTERS = 1 << 20
const MAX_DEPTH = 32
/** A file of settings has a few hundred. */
const MAX_NAMES = 2000

const refuse = (message: string, cause?: unknown): UserError => new UserError(message, {exit: 2, code: 'SETTINGS', cause})

export type FoundValue = {
  readonly path: string
  readonly value: unknown
  /** The value with its numbers as they are written: `007` and `1.10` may be names. */
  readonly written: unknown
  readonly source: string
}

/**
 * Reads the file at `path`; `shown` is its name in sentences, `sections` are names that may stand without a value.
 *
 * What is wrong with single lines goes to `problems`. Throws a `UserError` (exit 2) where the file cannot be read or
 * goes beyond a bound.
 */
export function readSettingsFile(
  path: string,
  {shown, sections, problems}: {readonly shown: string; readonly sections: ReadonlySet<string>; readonly problems: string[]}
): FoundValue[] {
  let content: string
  try {
    content = textOf(path)
  } catch (error) {
    const {message} = error as Error
    throw refuse(`The settings file ${shown} cannot be read: ${message.replace(/\.$/, '')}.`, error)
  }
  if (content.length > MAX_CHARACTERS)
    throw refuse(`The settings file ${shown} has ${content.length} characters; at most ${MAX_CHARACTERS} are read.`)
  const lines = new LineCounter()
  const at = (offset: number | undefined): string => `${shown}:${lines.linePos(offset ?? 0).line}`
  const deep = deepestFlow(content)
  if (deep.depth > MAX_DEPTH) {
    const line = content.slice(0, deep.at).split('\n').length
    throw refuse(`${shown}:${line}: brackets lie more than ${MAX_DEPTH} levels deep.`)
  }
  const block = deepestBlock(content)
  if (block.depth > 2 * MAX_DEPTH) throw refuse(`${shown}:${block.line}: sections or lists lie more than ${MAX_DEPTH} levels deep.`)
  let document: Document
  try {
    document = parseDocument(content, {lineCounter: lines, prettyErrors: false, uniqueKeys: false}) // they are compared below, in linear time
  } catch (error) {
    throw refuse(`The settings file ${shown} is no YAML that can be read: ${reasonOf(error as Error)}.`, error)
  }
  for (const error of document.errors.slice(0, 20)) {
    const said = error.code === 'MULTIPLE_DOCS' ? 'a second document begins here (---); expected one' : reasonOf(error)
    problems.push(`${at(error.pos[0])}: ${said}.`)
  }
  if (document.errors.length > 0 || document.contents === null) return []
  if (!isMap(document.contents)) {
    problems.push(`${shown}: expected sections such as optim: and student:, but received something else.`)
    return []
  }
  return valuesOf(document.contents, {document, sections, at, shown, problems})
}

/**
 * The text of a plain file, or of a pipe that the shell has opened. Looked at before it is opened: another pipe waits
 * for a writer, and a device may never end. (`system/plain-file.ts` does the same; `config` stands below it.)
 */
function textOf(path: string): string {
  const found = statSync(path)
  const isOpenPipe = found.isFIFO() && /^\/(dev|proc\/self)\/fd\/\d+$|^\/dev\/stdin$/.test(path)
  if (!found.isFile() && !isOpenPipe) throw new Error(found.isDirectory() ? 'it is a folder' : 'it is a pipe or a device')
  if (found.size > 4 * MAX_CHARACTERS) throw new Error(`it has ${found.size} bytes`)
  const bytes = readFileSync(path)
  if (!isUtf8(bytes)) throw new Error('it is not UTF-8; save it as UTF-8')
  return bytes.toString('utf8')
}

/** How deep brackets lie, with quotes and comments counted too: what is no bracket makes it no shallower. */
function deepestFlow(text: string): {depth: number; at: number} {
  let [depth, most, at] = [0, 0, 0]
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i)
    if (code === 91 || code === 123) {
      if (++depth > most) [most, at] = [depth, i]
    } else if ((code === 93 || code === 125) && depth > 0) depth--
  }
  return {depth: most, at}
}

/** What the parser or what unfolds aliases says, as a clause of one line. */
function reasonOf({message}: {readonly message: string}): string {
  const first = message.split('\n')[0]!.replace(/[.:]$/, '')
  if (/circular/i.test(first)) return 'one holds itself'
  return first.length > 200 ? `${first.slice(0, 200)}…` : first
}

/**
 * How deep lists and sections lie by what stands in front of them, spaces and marks (`- - x`), and where: the parser
 * calls itself for each, and an overflow of its stack can end the process. Texts of several lines count too.
 */
function deepestBlock(text: string): {depth: number; line: number} {
  let [most, at] = [0, 0]
  const indents: number[] = []
  for (const [line, row] of text.split('\n').entries()) {
    const start = row.search(/[^ ]/)
    if (start < 0) continue
    while (indents.length > 0 && indents.at(-1)! >= start) indents.pop()
    indents.push(start)
    let marks = 0
    for (let i = start; i < row.length; i++) {
      const isMark = '-?:'.includes(row[i]!) && ' \t\r'.includes(row[i + 1] ?? ' ')
      if (isMark) marks++
      else if (!' \t\r'.includes(row[i]!)) break
    }
    if (indents.length + marks > most) [most, at] = [indents.length + marks, line + 1]
  }
  return {depth: most, line: at}
}

type Walk = {
  readonly document: Document
  readonly sections: ReadonlySet<string>
  readonly at: (offset: number | undefined) => string
  readonly shown: string
  readonly problems: string[]
}

function valuesOf(root: YAMLMap, {document, sections, at, shown, problems}: Walk): FoundValue[] {
  const found: FoundValue[] = []
  const where = (pair: Pair): string => at((pair.key as {range?: [number, number, number]}).range?.[0])
  const names = new Set<string>()
  const walk = (map: YAMLMap, prefix: string, depth: number): void => {
    for (const pair of map.items) {
      const source = where(pair)
      if (!isScalar(pair.key) && !isAlias(pair.key)) throw refuse(`${source}: a list or a section stands in the place of a name.`)
      const path = prefix + String(isScalar(pair.key) ? pair.key.value : pair.key)
      if (names.has(path)) problems.push(`${source}: ${path} stands there twice.`)
      names.add(path)
      if (depth > MAX_DEPTH) throw refuse(`${source}: sections lie more than ${MAX_DEPTH} levels deep.`)
      if (found.length >= MAX_NAMES) throw refuse(`${source}: ${shown} has more than ${MAX_NAMES} values.`)
      if (isMap(pair.value)) walk(pair.value, `${path}.`, depth + 1)
      else if ((pair.value === null || (isScalar(pair.value) && pair.value.value === null)) && sections.has(path))
        continue // a section without entries
      else if (pair.value === null) found.push({path, value: null, written: null, source})
      else found.push({path, value: plain(pair.value as Node, document, source), written: written(pair.value, document), source})
    }
  }
  walk(root, '', 1)
  return found
}

/** A value, or those of a list, with numbers as they are written. */
function written(node: unknown, document: Document): unknown {
  const found = isAlias(node) ? node.resolve(document) : node
  if (isSeq(found)) return found.items.map(item => (isScalar(item) || isAlias(item) ? written(item, document) : item))
  return isScalar(found) && typeof found.value === 'number' ? (found.source ?? String(found.value)) : isScalar(found) ? found.value : found
}

type Node = {toJS(document: Document): unknown}

/** A value with its aliases unfolded. */
function plain(value: Node, document: Document, source: string): unknown {
  try {
    const found = value.toJS(document)
    JSON.stringify(found) // an alias of itself goes round in a circle
    return found
  } catch (error) {
    throw refuse(`${source}: its aliases unfold to too much, or to nothing (${reasonOf(error as Error)}).`, error)
  }
}
