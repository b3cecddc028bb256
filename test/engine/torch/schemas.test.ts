/**
 * Every operator that the kernels call is there in the libtorch that is loaded, and takes what it is given: as many
 * arguments as it has, none left out that it needs, and true, false or text where it wants them. Kernels of CUDA are
 * declared on the CPU too, so their calls are held here although they cannot run.
 */
import assert from 'node:assert/strict'
import {readFileSync, readdirSync} from 'node:fs'
import {join} from 'node:path'
import {before, test} from 'node:test'
import ts from 'typescript'
import {torch} from '../../../src/engine/torch/binding.js'
import {packageFolder} from '../../../src/system/paths.js'
import {onTorch} from '../../support/engine.js'

before(onTorch)

type Call = {readonly name: string; readonly where: string; readonly args: readonly ts.Expression[]}

/** Calls of `op`, `ops`, `run` and `inPlace` with the name written out. */
function calls(): Call[] {
  const folder = join(packageFolder(), 'src/engine/torch')
  const found: Call[] = []
  for (const file of readdirSync(folder, {recursive: true, encoding: 'utf8'}).filter(name => name.endsWith('.ts'))) {
    const source = ts.createSourceFile(file, readFileSync(join(folder, file), 'utf8'), ts.ScriptTarget.ES2022, true)
    const visit = (node: ts.Node): void => {
      ts.forEachChild(node, visit)
      if (!ts.isCallExpression(node) || !ts.isIdentifier(node.expression) || !/^(op|ops|run|inPlace)$/.test(node.expression.text)) return
      const [name, ...args] = node.arguments
      if (!name || !ts.isStringLiteral(name) || name.text.startsWith('dinov2_processes::')) return
      const {line} = source.getLineAndCharacterOfPosition(node.getStart())
      found.push({name: name.text, where: `${file}:${line + 1}`, args})
    }
    visit(source)
  }
  return found
}

type Formal = {readonly type: string; readonly optional: boolean}

/** The arguments of a declaration such as `aten::f(Tensor a, *, float? s=None) -> Tensor`. */
function argumentsOf(schema: string): Formal[] {
  const text = schema.slice(schema.indexOf('(') + 1, schema.lastIndexOf(') ->'))
  const parts: string[] = []
  let [depth, start] = [0, 0]
  for (let i = 0; i <= text.length; i++) {
    if (i === text.length || (text[i] === ',' && depth === 0)) {
      parts.push(text.slice(start, i).trim())
      start = i + 1
    } else if ('([{'.includes(text[i]!)) depth++
    else if (')]}'.includes(text[i]!)) depth--
  }
  return parts
    .filter(part => part && part !== '*')
    .map(part => {
      const type = part.split(/\s+/)[0]!
      return {type: type.replace(/\(.*?\)/, ''), optional: part.includes('=') || type.endsWith('?')}
    })
}

const declared = (name: string): string => {
  const [base, overload = ''] = name.split(/\.(.*)/s) as [string, string?]
  return torch().schema(torch().resolve(base.includes('::') ? base : `aten::${base}`, overload))
}

/** What is wrong with a call; undefined where nothing is. */
function fault({name, args}: Call): string | undefined {
  const formal = argumentsOf(declared(name))
  const open = args.some(ts.isSpreadElement)
  if (!open && args.length > formal.length) return `takes ${formal.length} arguments but is given ${args.length}`
  const missing = open ? undefined : formal.slice(args.length).findIndex(({optional}) => !optional)
  if (missing !== undefined && missing >= 0) return `argument ${args.length + missing + 1} is left out`
  const before = args.findIndex(ts.isSpreadElement)
  for (const [i, arg] of args.slice(0, before < 0 ? args.length : before).entries()) {
    const {type} = formal[i]!
    const isBool = arg.kind === ts.SyntaxKind.TrueKeyword || arg.kind === ts.SyntaxKind.FalseKeyword
    if (isBool && !/^bool|^Scalar/.test(type)) return `argument ${i + 1} is ${type} but is given ${arg.getText()}`
    if (ts.isNumericLiteral(arg) && /^(bool|str|Tensor(\[\])?)\??$/.test(type))
      return `argument ${i + 1} is ${type} but is given ${arg.getText()}`
    if (ts.isStringLiteral(arg) && !/^(str|Device)/.test(type)) return `argument ${i + 1} is ${type} but is given ${arg.getText()}`
    if (arg.kind === ts.SyntaxKind.NullKeyword && !type.endsWith('?') && !type.startsWith('Tensor'))
      return `argument ${i + 1} is ${type} but is given null`
  }
  return undefined
}

test('every call fits the declaration of its operator', () => {
  const all = calls()
  assert.ok(all.length > 300, `only ${all.length} calls were found`)
  for (const name of ['_flash_attention_forward', '_efficient_attention_backward', '_fused_adamw_', '_addmm_activation'])
    assert.ok(
      all.some(call => call.name === name),
      name
    )
  const faults = all.flatMap(call => {
    const found = fault(call)
    return found ? [`${call.where} ${call.name}: ${found}`] : []
  })
  assert.deepEqual(faults, [])
})

test('the check finds what does not fit', () => {
  const parse = (text: string): Call => {
    const source = ts.createSourceFile('x.ts', text, ts.ScriptTarget.ES2022, true)
    const call = (source.statements[0] as ts.ExpressionStatement).expression as ts.CallExpression
    const [name, ...args] = call.arguments
    return {name: (name as ts.StringLiteral).text, where: 'x', args}
  }
  assert.equal(fault(parse("op('relu', x)")), undefined)
  assert.match(fault(parse("op('relu', x, 1)"))!, /takes 1 arguments but is given 2/)
  assert.match(fault(parse("op('mm', x)"))!, /argument 2 is left out/)
  assert.match(fault(parse("op('_addmm_activation', a, b, c, 1, 1, 1)"))!, /argument 6 is bool but is given 1/)
  assert.match(fault(parse("op('gelu', x, true)"))!, /argument 2 is str but is given true/)
  assert.throws(() => fault(parse("op('no_such_operator', x)")), /no operator aten::no_such_operator/)
})

test('the kernels for packed sequences give as many results, in the order that is relied on', () => {
  const results = (name: string): string => declared(name).split(') -> ')[1]!
  assert.match(
    results('_flash_attention_forward'),
    /^\(Tensor output, Tensor softmax_logsumexp, Tensor \w+, Tensor \w+, Tensor debug_attn_mask\)$/
  )
  assert.match(results('_flash_attention_backward'), /^\(Tensor, Tensor, Tensor\)$/)
  assert.match(results('_efficient_attention_forward'), /^\(Tensor output, Tensor logsumexp, Tensor philox_seed, Tensor philox_offset, /)
  assert.match(results('_efficient_attention_backward'), /^\(Tensor, Tensor, Tensor, Tensor\)$/)
  const order = (name: string): string[] =>
    declared(name)
      .slice(declared(name).indexOf('(') + 1)
      .split(/, (?=Sym|Tensor|float|bool|int|\*)/)
      .map(part => /(\w+)(=.*)?\)?$/.exec(part.split(' -> ')[0]!)?.[1] ?? part)
  assert.deepEqual(order('_flash_attention_backward').slice(0, 14), ['grad_out', 'query', 'key', 'value', 'out', 'logsumexp', 'cum_seq_q', 'cum_seq_k', 'max_q', 'max_k', 'dropout_p', 'is_causal', 'rng_state', 'unused']) // prettier-ignore
  assert.deepEqual(order('_efficient_attention_backward').slice(0, 16), ['grad_out_', 'query', 'key', 'value', 'bias', 'out', 'cu_seqlens_q', 'cu_seqlens_k', 'max_seqlen_q', 'max_seqlen_k', 'logsumexp', 'dropout_p', 'philox_seed', 'philox_offset', 'custom_mask_type', 'bias_requires_grad']) // prettier-ignore
})
