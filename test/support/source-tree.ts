/**
 * The source tree read as data: files, imports, exports, functions and comments, by TypeScript's own parser. The
 * architecture test judges what is found here, and `npm run measure` prints it.
 */
import {existsSync, readdirSync, readFileSync} from 'node:fs'
import {dirname, join, posix, relative} from 'node:path'
import {fileURLToPath} from 'node:url'
import ts from 'typescript'

/** The root of the repository. */
export const root = fileURLToPath(new URL('../../../', import.meta.url))

function* walk(folder: string): Generator<string> {
  if (!existsSync(folder)) return
  for (const entry of readdirSync(folder, {withFileTypes: true})) {
    const path = join(folder, entry.name)
    if (entry.isDirectory()) {
      if (!/^(node_modules|build|dist|golden)$/.test(entry.name)) yield* walk(path)
    } else yield path
  }
}

/** All files under a folder whose names end so, as sorted paths from the root. Recorded tensors are left out. */
export const filesUnder = (folder: string, ending = '.ts'): string[] =>
  [...walk(join(root, folder))]
    .filter(path => path.endsWith(ending) && !path.endsWith('.d.ts')) // types of what `npm run build` bundles declare nothing of ours
    .map(path => relative(root, path))
    .sort()

export const readText = (file: string): string => readFileSync(join(root, file), 'utf8')

const parsed = new Map<string, ts.SourceFile>()

/** The syntax tree of a file, parsed once. */
export function parse(file: string): ts.SourceFile {
  let source = parsed.get(file)
  if (!source) parsed.set(file, (source = ts.createSourceFile(file, readText(file), ts.ScriptTarget.Latest, true)))
  return source
}

export type Import = {
  readonly from: string
  /** A path from the root that ends in `.ts`, or the name of a package. */
  readonly to: string
  readonly kind: 'value' | 'type' | 'dynamic'
  /** Names taken from the module; `*` where all of them may be. */
  readonly names: readonly string[]
}

const allTypes = (names: ts.NodeArray<ts.ImportSpecifier | ts.ExportSpecifier> | undefined): boolean =>
  names !== undefined && names.length > 0 && names.every(name => name.isTypeOnly)

const namesOf = (names: ts.NodeArray<ts.ImportSpecifier | ts.ExportSpecifier>): string[] =>
  names.map(name => (name.propertyName ?? name.name).text)

/** What a dynamic import is used for: the names of its destructuring or its property access, or `*`. */
function dynamicNames(call: ts.Node): string[] {
  let node = call.parent
  while (ts.isAwaitExpression(node) || ts.isParenthesizedExpression(node)) node = node.parent
  if (ts.isPropertyAccessExpression(node)) return [node.name.text === 'then' ? '*' : node.name.text]
  if (ts.isVariableDeclaration(node) && ts.isObjectBindingPattern(node.name))
    return node.name.elements.map(element => (element.propertyName ?? element.name).getText())
  return ['*']
}

/** Every import of a file. */
export function importsOf(file: string): Import[] {
  const found: Import[] = []
  const add = (node: ts.Node, kind: Import['kind'], names: readonly string[]): void => {
    if (!ts.isStringLiteralLike(node)) return
    const to = node.text.startsWith('.') ? posix.normalize(posix.join(dirname(file), node.text)).replace(/\.js$/, '.ts') : node.text
    found.push({from: file, to, kind, names})
  }
  const visit = (node: ts.Node): void => {
    if (ts.isImportDeclaration(node)) {
      const clause = node.importClause
      const names = clause?.namedBindings && ts.isNamedImports(clause.namedBindings) ? clause.namedBindings.elements : undefined
      const typesOnly = clause !== undefined && (clause.isTypeOnly || (!clause.name && allTypes(names)))
      const taken = [...(clause?.name ? ['default'] : []), ...(names ? namesOf(names) : clause?.namedBindings ? ['*'] : [])]
      add(node.moduleSpecifier, typesOnly ? 'type' : 'value', taken)
    } else if (ts.isExportDeclaration(node) && node.moduleSpecifier) {
      const names = node.exportClause && ts.isNamedExports(node.exportClause) ? node.exportClause.elements : undefined
      add(node.moduleSpecifier, node.isTypeOnly || allTypes(names) ? 'type' : 'value', names ? namesOf(names) : ['*'])
    } else if (ts.isImportTypeNode(node) && ts.isLiteralTypeNode(node.argument))
      add(node.argument.literal, 'type', [node.qualifier?.getText().split('.')[0] ?? '*'])
    else if (ts.isCallExpression(node) && node.expression.kind === ts.SyntaxKind.ImportKeyword && node.arguments[0])
      add(node.arguments[0], 'dynamic', dynamicNames(node))
    ts.forEachChild(node, visit)
  }
  visit(parse(file))
  return found
}

export type Export = {readonly file: string; readonly name: string; readonly kind: 'value' | 'type'; readonly usedInFile: boolean}

const isExported = (node: ts.Node): boolean =>
  ts.canHaveModifiers(node) && (ts.getModifiers(node)?.some(modifier => modifier.kind === ts.SyntaxKind.ExportKeyword) ?? false)

/** The names that a file declares and exports; what it hands on from other files is not among them. */
export function exportsOf(file: string): Export[] {
  const source = parse(file)
  const words = new Map<string, number>()
  const count = (node: ts.Node): void => {
    if (ts.isIdentifier(node)) words.set(node.text, (words.get(node.text) ?? 0) + 1)
    ts.forEachChild(node, count)
  }
  count(source)
  const found = new Map<string, Export>()
  const add = (name: string, kind: Export['kind']): void => {
    const declarations = source.statements.filter(
      node => ts.isFunctionDeclaration(node) && isExported(node) && node.name?.text === name
    ).length
    found.set(name, {file, name, kind, usedInFile: (words.get(name) ?? 0) > Math.max(1, declarations)})
  }
  for (const node of source.statements) {
    if (!isExported(node)) continue
    if (ts.isVariableStatement(node)) {
      for (const {name} of node.declarationList.declarations) {
        if (ts.isIdentifier(name)) add(name.text, 'value')
        else for (const element of name.elements) if (ts.isBindingElement(element)) add(element.name.getText(), 'value')
      }
    } else if ((ts.isFunctionDeclaration(node) || ts.isClassDeclaration(node) || ts.isEnumDeclaration(node)) && node.name) {
      if (!ts.getModifiers(node)?.some(modifier => modifier.kind === ts.SyntaxKind.DefaultKeyword)) add(node.name.text, 'value')
    } else if (ts.isTypeAliasDeclaration(node) || ts.isInterfaceDeclaration(node))
      add(node.name.text, found.get(node.name.text)?.kind ?? 'type')
  }
  return [...found.values()]
}

export type FunctionSize = {readonly file: string; readonly name: string; readonly lines: number; readonly parameters: number}

/** Every function of a file with a body, with its length in lines and its parameters. */
export function functionsOf(file: string): FunctionSize[] {
  const source = parse(file)
  const found: FunctionSize[] = []
  const lineAt = (position: number): number => source.getLineAndCharacterOfPosition(position).line
  const visit = (node: ts.Node): void => {
    if (ts.isFunctionLike(node) && (node as {body?: ts.Node}).body) {
      const named = node.name ?? (node.parent as {name?: ts.Node}).name
      found.push({
        file,
        name: named?.getText() ?? '(anonymous)',
        lines: lineAt(node.end) - lineAt(node.getStart()) + 1,
        parameters: node.parameters.filter(parameter => parameter.name.getText() !== 'this').length
      })
    }
    ts.forEachChild(node, visit)
  }
  visit(source)
  return found
}

export const lineCount = (file: string): number => readText(file).split('\n').length - 1

/** Strongly connected parts of a graph that hold more than one node, each sorted (Tarjan 1972). */
export function circles(arrows: Iterable<readonly [from: string, to: string]>): string[][] {
  const graph = new Map<string, Set<string>>()
  for (const [from, to] of arrows) if (from !== to) graph.set(from, (graph.get(from) ?? new Set()).add(to))
  const order = new Map<string, number>()
  const low = new Map<string, number>()
  const stack: string[] = []
  const found: string[][] = []
  const visit = (node: string): void => {
    order.set(node, order.size)
    low.set(node, order.get(node)!)
    stack.push(node)
    for (const next of graph.get(node) ?? []) {
      if (!order.has(next)) visit(next)
      if (stack.includes(next)) low.set(node, Math.min(low.get(node)!, low.get(next)!))
    }
    if (low.get(node) !== order.get(node)) return
    const part = stack.splice(stack.indexOf(node))
    if (part.length > 1) found.push(part.sort())
  }
  for (const node of graph.keys()) if (!order.has(node)) visit(node)
  return found
}
