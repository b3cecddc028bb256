/**
 * Loading the operator suites that tfjs-core ships in its npm package.
 *
 * They are ES modules without file endings in a package that Node takes for CommonJS, so Node can load them neither
 * way. Each file is turned into CommonJS by the TypeScript compiler as it is required. `../index` is answered by the
 * package's own bundle, so the suites speak to the very tfjs-core that the engine is registered with, and
 * `../jasmine_util`, which wants an older jasmine, by the few functions below.
 */
import {readFileSync, readdirSync, statSync} from 'node:fs'
import Module, {createRequire} from 'node:module'
import {dirname, join, relative, sep} from 'node:path'
import ts from 'typescript'
import {engine, env, setBackend} from '../../src/tensor/tf.js'

const require = createRequire(import.meta.url)
const CORE = dirname(require.resolve('@tensorflow/tfjs-core/package.json'))
const DIST = join(CORE, 'dist')

/** The suites' paths below tfjs-core's `dist`, sorted: operators, gradients of the engine, tensors. */
export function suiteFiles(): string[] {
  const found: string[] = []
  const walk = (folder: string): void => {
    for (const name of readdirSync(folder)) {
      const path = join(folder, name)
      if (statSync(path).isDirectory()) walk(path)
      else if (name.endsWith('_test.js')) found.push(relative(DIST, path).split(sep).join('/'))
    }
  }
  walk(join(DIST, 'ops'))
  return [...found.sort(), 'gradients_test.js', 'variable_test.js']
}

type Environment = {name: string; backendName: string; isDataSync: boolean}
type Constraints = {flags?: Record<string, unknown>; predicate?: (environment: Environment) => boolean}

/**
 * What the suites take from `jasmine_util`: which environments they run in, and a `describe` that puts a backend in
 * force.
 */
function jasmineUtil(backendName: string): Record<string, unknown> {
  const environment: Environment = {name: backendName, backendName, isDataSync: true}
  const fits = ({flags = {}, predicate}: Constraints): boolean =>
    Object.entries(flags).every(([flag, value]) => env().get(flag) === value) && (predicate?.(environment) ?? true)
  return {
    ALL_ENVS: {},
    SYNC_BACKEND_ENVS: {predicate: ({isDataSync}: Environment) => isDataSync},
    NODE_ENVS: {},
    CHROME_ENVS: {predicate: () => false},
    BROWSER_ENVS: {predicate: () => false},
    HAS_WORKER: {predicate: () => false},
    HAS_NODE_WORKER: {predicate: () => false},
    describeWithFlags(name: string, constraints: Constraints, tests: (environment: Environment) => void) {
      if (!fits(constraints)) return
      describe(name, () => {
        beforeAll(() => {
          // Some suites count all tensors there are: each starts with none.
          engine().reset()
          env().set('IS_TEST', true)
          return setBackend(backendName)
        })
        beforeEach(() => engine().startScope())
        afterEach(() => {
          engine().endScope()
          engine().disposeVariables()
        })
        tests(environment)
      })
    }
  }
}

type Loader = {
  _resolveFilename(request: string, parent: {filename?: string} | undefined, ...rest: unknown[]): string
  _extensions: Record<string, (module: {_compile(code: string, file: string): void}, file: string) => void>
}

/**
 * Teaches `require` to load tfjs-core's source modules; returns a function that loads one suite. jasmine's globals
 * must be in place before.
 */
export function suiteLoader(backendName: string): (file: string) => void {
  const loader = Module as unknown as Loader
  const stand = join(DIST, 'jasmine_util.js')
  const resolve = loader._resolveFilename.bind(loader)
  loader._resolveFilename = (request, parent, ...rest) => {
    const found = resolve(request, parent, ...rest)
    return found === join(DIST, 'index.js') ? require.resolve('@tensorflow/tfjs-core') : found
  }
  const plain = loader._extensions['.js']!
  loader._extensions['.js'] = (module, file) => {
    if (!file.startsWith(DIST + sep) || file.includes('.node.')) return plain(module, file)
    const {outputText} = ts.transpileModule(readFileSync(file, 'utf8'), {
      compilerOptions: {module: ts.ModuleKind.CommonJS, target: ts.ScriptTarget.ES2020, esModuleInterop: true}
    })
    module._compile(outputText, file)
  }
  require.cache[stand] = Object.assign(new Module(stand), {
    filename: stand,
    loaded: true,
    exports: jasmineUtil(backendName)
  }) as NodeJS.Module
  return file => void require(join(DIST, file))
}

declare global {
  function describe(name: string, body: () => void): void
  function it(name: string, body: () => unknown): void
  function pending(reason: string): void
  function beforeAll(body: () => unknown): void
  function beforeEach(body: () => unknown): void
  function afterEach(body: () => unknown): void
}
