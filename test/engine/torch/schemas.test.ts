/**
 * Every operator that the kernels call is there in the libtorch that is loaded, and in all versions of torch that are
 * supported (test/native/torch-schemas.json, by scripts/write-torch-schemas.js), and takes what it is given: as many
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

/** Strings that stand in an expression as values, also in the table that a name in it stands for. */
function stringsIn(node: ts.Node, source: ts.SourceFile): string[] {
  if (ts.isStringLiteral(node)) return [node.text]
  if (ts.isPropertyAssignment(node)) return stringsIn(node.initializer, source)
  if (ts.isIdentifier(node))
    return source.statements.flatMap(statement =>
      ts.isVariableStatement(statement)
        ? statement.declarationList.declarations.flatMap(({name, initializer}) =>
            initializer && name.getText(source) === node.text ? stringsIn(initializer, source) : []
          )
        : []
    )
  const found: string[] = []
  ts.forEachChild(node, child => void found.push(...stringsIn(child, source)))
  return found
}

/** The operators that a name may stand for: a text, a name of a loop over a table, or a parameter of a few texts. */
function namesOf(name: ts.Expression, source: ts.SourceFile): string[] {
  if (ts.isStringLiteral(name)) return [name.text]
  if (ts.isTemplateExpression(name)) {
    const [span] = name.templateSpans
    return namesOf(span!.expression, source).map(text => `${name.head.text}${text}${span!.literal.text}`)
  }
  const wanted = name.getText(source)
  for (let node: ts.Node = name; node.parent; node = node.parent) {
    const {parent} = node
    if (ts.isForOfStatement(parent) && new RegExp(`\\b${wanted}\\b`).test(parent.initializer.getText(source)))
      return stringsIn(parent.expression, source).filter(text => /^[a-z_]/.test(text))
    const parameter = ts.isFunctionLike(parent) ? parent.parameters.find(one => one.name.getText(source) === wanted) : undefined
    if (parameter?.type && ts.isUnionTypeNode(parameter.type))
      return parameter.type.types.flatMap(type =>
        ts.isLiteralTypeNode(type) && ts.isStringLiteral(type.literal) ? [type.literal.text] : []
      )
  }
  return []
}

/** Calls of `op`, `ops`, `run` and `inPlace`, one for each operator that they may name. */
function calls(): Call[] {
  const folder = join(packageFolder(), 'src/engine/torch')
  const found: Call[] = []
  for (const file of readdirSync(folder, {recursive: true, encoding: 'utf8'}).filter(name => name.endsWith('.ts'))) {
    const source = ts.createSourceFile(file, readFileSync(join(folder, file), 'utf8'), ts.ScriptTarget.ES2022, true)
    const visit = (node: ts.Node): void => {
      ts.forEachChild(node, visit)
      if (!ts.isCallExpression(node) || !ts.isIdentifier(node.expression) || !/^(op|ops|run|inPlace)$/.test(node.expression.text)) return
      const [name, ...args] = node.arguments
      if (!name || /^['`]dinov2_(processes|graphs)::|^`dinov2::/.test(name.getText(source))) return
      const where = `${file}:${source.getLineAndCharacterOfPosition(node.getStart()).line + 1}`
      const names = namesOf(name, source)
      if (names.length === 0 && name.getText(source) !== 'check') unread.push(`${where} ${name.getText(source)}`) // of oneDNN
      found.push(...names.map(one => ({name: one, where, args})))
    }
    visit(source)
  }
  return found
}
/** Calls whose operator cannot be told from the source. */
const unread: string[] = []

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

/** How the versions of torch declare operators: by name, each declaration with the versions that have it. */
const {versions, operators} = JSON.parse(readFileSync(join(packageFolder(), 'test/native/torch-schemas.json'), 'utf8')) as {
  versions: string[]
  operators: Record<string, Record<string, string>>
}

/** The declaration of an operator in a version. */
function declaredIn(version: string, name: string): string {
  const found = Object.entries(operators[name] ?? {}).find(([, having]) => having.split(' ').includes(version))
  if (!found) throw new Error(`torch ${version} has no operator ${name}`)
  return found[0]
}

/** What is wrong with a call; undefined where nothing is. */
function fault({name, args}: Call, schema = declared(name)): string | undefined {
  const formal = argumentsOf(schema)
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
  assert.deepEqual(unread, [])
  for (const name of ['_flash_attention_forward', '_fused_adamw_', '_addmm_activation', 'erf', 'le.Tensor', 'amin', 'cumprod', 'all.dim'])
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

test('every call fits the declarations of torch 2.11 to 2.15', () => {
  assert.deepEqual(
    versions.map(version => version.replace(/\.\d+$/, '')),
    ['2.11', '2.12', '2.13', '2.14', '2.15']
  )
  const ofLibtorch = calls().filter(({name}) => !name.includes('::'))
  for (const version of versions) {
    const faults = ofLibtorch.flatMap(call => {
      const found = operators[call.name] ? fault(call, declaredIn(version, call.name)) : 'is missing: run scripts/write-torch-schemas.js'
      return found ? [`torch ${version}: ${call.where} ${call.name}: ${found}`] : []
    })
    assert.deepEqual(faults, [])
  }
  assert.throws(() => declaredIn('2.10.0', 'relu'), /torch 2\.10\.0 has no operator relu/)
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

const loaded = 'the libtorch that is loaded'
for (const version of [loaded, ...versions])
  test(`the kernels for packed sequences give as many results, in the order that is relied on: ${version}`, () => {
    const of = (name: string): string => (version === loaded ? declared(name) : declaredIn(version, name))
    const results = (name: string): string => of(name).split(') -> ')[1]!
    assert.match(
      results('_flash_attention_forward'),
      /^\(Tensor output, Tensor softmax_logsumexp, Tensor \w+, Tensor \w+, Tensor debug_attn_mask\)$/
    )
    assert.match(results('_flash_attention_backward'), /^\(Tensor, Tensor, Tensor\)$/)
    assert.match(results('_efficient_attention_forward'), /^\(Tensor output, Tensor logsumexp, Tensor philox_seed, Tensor philox_offset, /)
    assert.match(results('_efficient_attention_backward'), /^\(Tensor, Tensor, Tensor, Tensor\)$/)
    const order = (name: string): string[] =>
      of(name)
        .slice(of(name).indexOf('(') + 1)
        .split(/, (?=Sym|Tensor|float|bool|int|\*)/)
        .map(part => /(\w+)(=.*)?\)?$/.exec(part.split(' -> ')[0]!)?.[1] ?? part)
    assert.deepEqual(order('_flash_attention_backward').slice(0, 14), ['grad_out', 'query', 'key', 'value', 'out', 'logsumexp', 'cum_seq_q', 'cum_seq_k', 'max_q', 'max_k', 'dropout_p', 'is_causal', 'rng_state', 'unused']) // prettier-ignore
    assert.deepEqual(order('_efficient_attention_backward').slice(0, 16), ['grad_out_', 'query', 'key', 'value', 'bias', 'out', 'cu_seqlens_q', 'cu_seqlens_k', 'max_seqlen_q', 'max_seqlen_k', 'logsumexp', 'dropout_p', 'philox_seed', 'philox_offset', 'custom_mask_type', 'bias_requires_grad']) // prettier-ignore
  })
