/**
 * Every place of the program that parses foreign bytes is reached by a parser of the fuzzer, or stands in the table of
 * exceptions with its reason.
 *
 * A place is a call by which bytes become values: JSON, YAML, numbers inside binary data, unpacking, image and table
 * libraries, and whole files taken into memory. Which functions the fuzzer's whole files enter is counted by V8; so a
 * new reader fails this test until a parser reads through it.
 */
import assert from 'node:assert/strict'
import {existsSync, readFileSync} from 'node:fs'
import {Session, type Profiler} from 'node:inspector/promises'
import {describe, it} from 'node:test'
import {join} from 'node:path'
import {pathToFileURL} from 'node:url'
import ts from 'typescript'
import {filesUnder, root} from '../support/source-tree.js'
import {unfuzzed} from './unfuzzed.js'

/** Calls by which foreign bytes become values. */
const READS = new RegExp(
  `^(${[
    'parseJson|parseJsonObject|parseFields|jsonObjectOr|readJsonObject|parseDocument|json', // texts with a form
    'get(Big)?(Ui|I)nt\\d+|getFloat\\d+|read(Big)?(UI|I)nt\\d*([LB]E)?|read(Float|Double)[LB]E', // numbers in bytes
    'createGunzip|gunzipSync|inflateSync|inflateRawSync|decompress|sharp|tableFromIPC|ParquetFile', // libraries
    'readFile|readFileSync|createReadStream|readText|fileBytes|openPlain|openPlainSync|openReader|readBytes' // files
  ].join('|')})$`
)

type Place = {readonly module: string; readonly name: string; readonly call: string; readonly at: number}

const isFunction = (node: ts.Node): boolean => ts.isFunctionLike(node) || ts.isClassStaticBlockDeclaration(node)

/** The name of the function around a node that is declared or assigned under one; the module's own text has ''. */
function nameAround(node: ts.Node): string {
  for (let at: ts.Node = node; at.parent !== undefined; at = at.parent) {
    if (!isFunction(at)) continue
    if (ts.isConstructorDeclaration(at)) return 'constructor'
    const named = (at as {name?: ts.Node}).name ?? (at.parent as {name?: ts.Node}).name
    if (named) return named.getText()
  }
  return ''
}

/** Places of one module; offsets are those of the compiled file. What runs in browsers only is compiled elsewhere. */
function placesOf(file: string): Place[] {
  const compiled = file.replace(/\.ts$/, '.js')
  const module = existsSync(join(root, 'dist', compiled)) ? compiled : file
  const text = readFileSync(module === file ? join(root, file) : join(root, 'dist', module), 'utf8')
  const source = ts.createSourceFile(module, text, ts.ScriptTarget.Latest, true)
  const found: Place[] = []
  const visit = (node: ts.Node): void => {
    if (ts.isCallExpression(node)) {
      const called = node.expression
      const call = ts.isPropertyAccessExpression(called) ? called.name.text : ts.isIdentifier(called) ? called.text : ''
      if (READS.test(call) && (call !== 'json' || node.arguments.length === 0))
        found.push({module, name: nameAround(node), call, at: node.getStart()})
    }
    ts.forEachChild(node, visit)
  }
  visit(source)
  return found
}

/** Reads the whole files of every parser, and a few changed ones. Returns what V8 counted, by module. */
async function counted(): Promise<Map<string, readonly Profiler.FunctionCoverage[]>> {
  const session = new Session()
  session.connect()
  await session.post('Profiler.enable')
  await session.post('Profiler.startPreciseCoverage', {callCount: true, detailed: false})
  const {fuzz, parsers} = await import('./fuzz.js')
  for (const parser of parsers) await fuzz(parser, 8)
  const {result} = await session.post('Profiler.takePreciseCoverage')
  session.disconnect()
  return new Map(result.map(({url, functions}) => [url, functions]))
}

/** Whether the innermost function around a place has run; what stands outside of all runs as the module is loaded. */
function hasRun({at}: Place, functions: readonly Profiler.FunctionCoverage[] | undefined): boolean {
  const around = (functions ?? []).flatMap(({ranges: [range]}) => (range!.startOffset <= at && at < range!.endOffset ? [range!] : []))
  const innermost = around.sort((a, b) => a.endOffset - a.startOffset - (b.endOffset - b.startOffset))[0]
  return innermost !== undefined && innermost.count > 0
}

describe('readers of foreign bytes', () => {
  it('are reached by the fuzzer, or say why they are not', async () => {
    const places = filesUnder('src').flatMap(placesOf)
    const known = await counted()
    const missed = new Map<string, Set<string>>()
    for (const place of places) {
      if (hasRun(place, known.get(pathToFileURL(join(root, 'dist', place.module)).href))) continue
      const key = `${place.module.replace(/\.js$/, '.ts')} ${place.name}`.trim()
      missed.set(key, (missed.get(key) ?? new Set()).add(place.call))
    }
    const reasons = new Map(Object.entries(unfuzzed))
    assert.ok(places.length > 200)
    assert.deepEqual(
      [...missed].flatMap(([key, calls]) => (reasons.has(key) ? [] : [`${key} (${[...calls].join()})`])).sort(),
      [],
      'Write a parser for it in test/fuzz, or say in test/fuzz/unfuzzed.ts why none is needed.'
    )
    assert.deepEqual(
      [...reasons.keys()].filter(key => !missed.has(key)),
      [],
      'These are reached now, or are gone: take them out of test/fuzz/unfuzzed.ts.'
    )
  })
})
