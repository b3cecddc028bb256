/**
 * One archive that runs where there is no network: Node, the built program, the packages it loads, the sources of the
 * addons, and models named with --with. `make bundle` calls it after a build.
 *
 *     node scripts/offline-bundle.js [-o dinov2-offline.tar.xz] [--with MODEL …] [--draft]
 *
 * Unpacked, `sh install.sh [PREFIX]` puts it into place. The torch engine is compiled there, at its first use, by the
 * compiler and against the torch of that machine.
 */
import {execFileSync} from 'node:child_process'
import {
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync
} from 'node:fs'
import {tmpdir} from 'node:os'
import {basename, dirname, join, relative, resolve} from 'node:path'
import {fileURLToPath} from 'node:url'
import {parseArgs} from 'node:util'

const root = fileURLToPath(new URL('..', import.meta.url))
const {values} = parseArgs({
  options: {
    output: {type: 'string', short: 'o'},
    with: {type: 'string', multiple: true, default: []},
    // Quick, for tests: hardly compressed, and without code that is compiled for the package.
    draft: {type: 'boolean', default: false}
  }
})
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
const name = `dinov2-${manifest.version}-${process.platform}-${process.arch}`
const output = resolve(values.output ?? `${name}.tar.xz`)
/** Bytes of the archive without models; a release that is larger has taken something along that nobody asked for. */
const MOST = 60 * 2 ** 20

/** What no running program reads. */
const isDeadWeight = path =>
  /\.(map|d\.ts|d\.mts|d\.cts|ts|mts|cts|md|markdown|o|gyp|flow)$/.test(path) ||
  /(^|\/)(test|tests|__tests__|\.github|obj\.target)(\/|$)/.test(path) ||
  /^apache-arrow\/(src|bin)\/|^apache-arrow\/Arrow\.(dom|es|externs|esnext)|^parquet-wasm\/(bundler|esm)\/|^hnswlib-node\/(src|lib\/hnswlib)\/|^csv-parse\/dist\/(iife|umd|esm)\//.test(
    path
  )

/** The folder of a package as Node would find it from `from`; undefined where an optional one is absent. */
function folderOf(wanted, from) {
  for (let at = from; at.startsWith(root.replace(/\/$/, '')); at = dirname(at)) {
    const folder = join(at, 'node_modules', wanted)
    if (existsSync(join(folder, 'package.json'))) return folder
  }
  return undefined
}

/** The packages that the program loads, with those that they load, by their folders. */
function packages() {
  const found = new Set()
  const walk = (names, from) => {
    for (const [wanted, optional] of names) {
      const folder = folderOf(wanted, from)
      if (!folder) {
        if (optional) continue
        throw new Error(`${wanted} is not installed: run npm ci first`)
      }
      if (found.has(folder)) continue
      found.add(folder)
      const own = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))
      const list = (kind, isOptional) => Object.keys(own[kind] ?? {}).map(one => [one, isOptional])
      // Types are packages too, and are for compilers alone.
      walk(
        [...list('dependencies', false), ...list('optionalDependencies', true)].filter(([one]) => !one.startsWith('@types/')),
        folder
      )
    }
  }
  walk(
    Object.keys({...manifest.dependencies, ...manifest.optionalDependencies}).map(one => [one, false]),
    root
  )
  return [...found]
}

/** The program as npm would pack it, with what its `prepack` writes. */
function stageProgram(into) {
  const files = ['package.json', 'package-lock.json', 'scripts', 'dist/bundled.json', ...manifest.files]
  for (const file of files)
    if (existsSync(join(root, file))) cpSync(join(root, file), join(into, file), {recursive: true, preserveTimestamps: true})
  symlinkSync(join(root, 'node_modules'), join(into, 'node_modules'))
  for (const step of manifest.scripts.prepack
    .split(' && ')
    .filter(one => !one.includes('npm run') && !(values.draft && one.includes('prebuild')))) {
    const [program, ...args] = step.split(' ')
    execFileSync(program === 'node' ? process.execPath : program, args, {cwd: into, stdio: ['ignore', 'ignore', 'inherit']})
  }
  for (const file of ['node_modules', 'scripts', 'package-lock.json', 'dist/bundled.json']) rmSync(join(into, file), {recursive: true})
}

function stagePackages(into) {
  const modules = join(root, 'node_modules')
  for (const folder of packages())
    cpSync(folder, join(into, 'node_modules', relative(modules, folder)), {
      recursive: true,
      // A package inside another is copied by itself, where it is asked for.
      filter: path => path === folder || !(basename(path) === 'node_modules' || isDeadWeight(relative(modules, path)))
    })
}

const install = `#!/bin/sh
# Puts dinov2 into a folder of its own: sh install.sh [PREFIX], by default ~/.local/share/dinov2/program; the command is PREFIX/bin/dinov2.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
prefix=\${1:-\${XDG_DATA_HOME:-$HOME/.local/share}/dinov2/program}
mkdir -p "$prefix"
prefix=$(cd "$prefix" && pwd)
[ "$prefix" != "$here" ] || { echo "install.sh: name another folder than the unpacked one" >&2; exit 2; }
if [ -e "$prefix/lib/dinov2" ]; then rm -rf "$prefix/lib/dinov2" "$prefix/node"; elif [ -n "$(ls -A "$prefix")" ]; then
  echo "install.sh: $prefix holds other files; name an empty folder" >&2; exit 2
fi
mkdir -p "$prefix/bin" "$prefix/lib"
cp -R "$here/lib/dinov2" "$prefix/lib/"
cp -R "$here/node" "$prefix/node"
[ ! -d "$here/models" ] || cp -R "$here/models" "$prefix/"
cat > "$prefix/bin/dinov2" <<END
#!/bin/sh
exec "$prefix/node/node" "$prefix/lib/dinov2/bin/run.js" "\\$@"
END
chmod 755 "$prefix/bin/dinov2"
"$prefix/bin/dinov2" --version
echo "Put $prefix/bin on the path. For the torch engine set DINOV2_TORCH to the folder of a torch of 2.11 or newer, or have python3 import one."
[ ! -d "$prefix/models" ] || echo "Models: $prefix/models"
`

const stage = mkdtempSync(join(tmpdir(), 'dinov2-offline-'))
try {
  const folder = join(stage, name)
  const program = join(folder, 'lib', 'dinov2')
  mkdirSync(program, {recursive: true})
  stageProgram(program)
  stagePackages(program)
  mkdirSync(join(folder, 'node'))
  cpSync(process.execPath, join(folder, 'node', 'node'))
  chmodSync(join(folder, 'node', 'node'), 0o755)
  try {
    execFileSync('strip', [join(folder, 'node', 'node')], {stdio: 'ignore'})
  } catch {
    process.stderr.write('strip is not here, so Node keeps its symbols\n')
  }
  writeFileSync(join(folder, 'install.sh'), install, {mode: 0o755})
  for (const model of values.with) {
    if (!existsSync(model)) throw new Error(`${model} is not there; --with takes files and folders`)
    cpSync(model, join(folder, 'models', basename(resolve(model))), {recursive: true, dereference: true})
  }
  const entries = readdirSync(stage)
  execFileSync('tar', ['-C', stage, '--sort=name', '--owner=0', '--group=0', '--numeric-owner', '-cf', `${output}.tar`, ...entries])
  execFileSync('xz', ['-f', values.draft ? '-0' : '-6', '-T0', `${output}.tar`])
  execFileSync('mv', [`${output}.tar.xz`, output])
  const {size} = statSync(output)
  process.stderr.write(`${output}: ${(size / 2 ** 20).toFixed(1)} MiB\n`)
  if (values.with.length === 0 && !values.draft && size > MOST) throw new Error(`the archive has more than ${MOST / 2 ** 20} MiB`)
} finally {
  rmSync(stage, {recursive: true, force: true})
}
