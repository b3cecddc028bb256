/**
 * No regular expression of the program takes more than linear time, whatever it is given: each is run over long texts
 * made to provoke backtracking, in a thread that is ended where it does not come back.
 *
 * The bound is no measure of speed: an expression of linear time needs milliseconds for such a text, one of quadratic
 * time minutes, one of exponential time for ever.
 */
import assert from 'node:assert/strict'
import {readdirSync, readFileSync} from 'node:fs'
import {join} from 'node:path'
import {test} from 'node:test'
import {fileURLToPath} from 'node:url'
import {Worker} from 'node:worker_threads'
import ts from 'typescript'
import {sniff} from '../src/data/image/sniff.js'

const root = fileURLToPath(new URL('../../', import.meta.url))

function* files(folder: string): Generator<string> {
  for (const entry of readdirSync(folder, {withFileTypes: true})) {
    const path = join(folder, entry.name)
    if (entry.isDirectory()) yield* files(path)
    else if (/\.[jt]s$/.test(path)) yield path
  }
}

/** Expressions that whoever runs the program writes: their time is their own. */
const USERS = ['commands/retrieval-eval.ts']

/** The text of an expression that is put together: what stands in for a value of the running program is a word. */
function textOf(node: ts.Expression): string | undefined {
  if (ts.isTaggedTemplateExpression(node)) return ts.isNoSubstitutionTemplateLiteral(node.template) ? node.template.rawText : undefined
  if (ts.isStringLiteralLike(node)) return node.text
  if (ts.isTemplateExpression(node))
    return node.head.text + node.templateSpans.map(({expression, literal}) => (textOf(expression) ?? 'word') + literal.text).join('')
  if (!ts.isCallExpression(node) || !ts.isPropertyAccessExpression(node.expression) || node.expression.name.text !== 'join')
    return undefined
  const list = node.expression.expression
  return ts.isArrayLiteralExpression(list) ? list.elements.map(part => textOf(part) ?? 'word').join('|') : undefined
}

type Expression = {readonly where: string; readonly source: string; readonly flags: string}

function expressionsOf(path: string): Expression[] {
  const source = ts.createSourceFile(path, readFileSync(path, 'utf8'), ts.ScriptTarget.Latest, true)
  const found: Expression[] = []
  const file = path.slice(root.length)
  const add = (node: ts.Node, text: string, flags: string): void => {
    const {line} = source.getLineAndCharacterOfPosition(node.getStart())
    found.push({where: `${file}:${line + 1}`, source: text, flags})
  }
  const visit = (node: ts.Node): void => {
    if (ts.isRegularExpressionLiteral(node)) {
      const end = node.text.lastIndexOf('/')
      add(node, node.text.slice(1, end), node.text.slice(end + 1))
    } else if (ts.isNewExpression(node) && node.expression.getText() === 'RegExp' && !USERS.includes(file)) {
      const [text, flags] = [node.arguments?.[0], node.arguments?.[1]].map(part => part && textOf(part))
      assert.ok(text !== undefined, `${file}: an expression whose text is not seen here; write it as a literal or a template`)
      add(node, text, flags ?? '')
    }
    ts.forEachChild(node, visit)
  }
  visit(source)
  return found
}

/** Texts of 200,000 characters: one character or one short word over and over, with an end that fits nothing. */
const worker = `
const {workerData, parentPort} = require('node:worker_threads')
const {expressions, at} = workerData
const words = [' ', '\\n', '\\t', '/', 'a', 'A', '0', '1', '.', ',', '-', '_', '"', "'", '(', '{', '<', ':', '=', '\\\\', 'ab ', ' \\n', 'a.', '0.', 'x=', '<!-- -->', '<a>', 'a/', '{1..2}', '"a",', "'a', ", 'backbone.', '1, ']
for (let i = 0; i < expressions.length; i++) {
  Atomics.store(at, 0, i)
  const {source, flags} = expressions[i]
  const literal = source.replace(/\\\\[a-zA-Z]|[^a-zA-Z<>!_-]+/g, ' ').split(' ').filter(word => word.length > 1).slice(0, 20)
  for (const word of [...words, ...literal])
    for (const end of ['\\u0001', '!\\n']) {
      const text = word.repeat(Math.ceil(200000 / word.length)) + end
      new RegExp(source, flags.replace('y', '')).test(text)
    }
}
parentPort.postMessage('done')
`

async function firstThatHangs(expressions: readonly Expression[], seconds: number): Promise<Expression | undefined> {
  const at = new Int32Array(new SharedArrayBuffer(4))
  const thread = new Worker(worker, {eval: true, workerData: {expressions, at}})
  try {
    let [before, idle] = [-1, 0]
    const done = new Promise<true>((resolve, reject) => thread.once('message', () => resolve(true)).once('error', reject))
    for (;;) {
      const finished = await Promise.race([done, new Promise<false>(resolve => setTimeout(resolve, 1000, false))])
      if (finished) return undefined
      const now = Atomics.load(at, 0)
      idle = now === before ? idle + 1 : 0
      before = now
      if (idle > seconds) return expressions[now]
    }
  } finally {
    await thread.terminate()
  }
}

test('every regular expression of the program ends in linear time', async () => {
  const expressions = ['src', 'commands', 'scripts', 'bin'].flatMap(folder => [...files(join(root, folder))].flatMap(expressionsOf))
  assert.ok(expressions.length > 100)
  const hanging = await firstThatHangs(expressions, 20)
  assert.equal(hanging, undefined, `${hanging?.where}: /${hanging?.source}/ takes more than linear time`)
})

test('the search finds an expression of exponential and one of quadratic time', async () => {
  for (const source of ['^(<!--[\\s\\S]*?-->\\s*)*x', '\\s+$'])
    assert.equal((await firstThatHangs([{where: 'here', source, flags: ''}], 2))?.where, 'here')
})

test('files of repeated comments, and of whatever else may repeat, are named at once', () => {
  for (const unit of ['<!-- a -->', '<!-- a --> ', '<?a?>', '<!--', '<?xml?>', ' ', '<', '<svg', '-->', '{', '\n'])
    for (const front of ['', '<?xml version="1.0"?>', 'BM', '<!doctype svg']) {
      const found = sniff(Buffer.from((front + unit.repeat(2000)).slice(0, 4096)))
      assert.ok('reason' in found || found.format === 'bmp', `${front}${unit}`)
    }
  const drawing = (text: string): boolean => {
    const found = sniff(Buffer.from(text))
    return 'reason' in found && found.reason.includes('SVG')
  }
  assert.ok(drawing('<?xml version="1.0"?><!-- a --><!-- b -->\n<svg xmlns="x"/>'))
  assert.ok(drawing('<!-- a --><!DOCTYPE svg PUBLIC "x"><svg/>'))
  assert.ok(!drawing('<!-- <svg> --><html/>'))
})
