/**
 * Writes `test/native/torch-schemas.json`: how each supported version of torch declares the operators that the kernels
 * of `src/engine/torch` call. To be run where a version is added:
 *
 *     node scripts/write-torch-schemas.js 2.11.0=FILE 2.12.1=FILE …
 *
 * FILE is `torchgen/packaged/ATen/native/native_functions.yaml` of that version's wheel, for whichever platform:
 *
 *     pip download torch==2.12.1 --no-deps --only-binary=:all: --platform macosx_14_0_arm64 --python-version 3.12
 *     unzip -p torch-2.12.1-*.whl torchgen/packaged/ATen/native/native_functions.yaml > FILE
 *
 * Operators of other libraries (`mkldnn::…`, `dinov2::…`) are declared in C++, not there.
 */
import {readFileSync, readdirSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {fileURLToPath} from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const files = new Map(process.argv.slice(2).map(text => /** @type {[string, string]} */ (text.split('='))))
if (files.size === 0) throw new Error('expected VERSION=FILE arguments, one for each version of torch')

/**
 * All words in quotes, and with `.Tensor` behind, for names also stand in tables and are put together there. What is no
 * operator is not found below; a test says which operators are called.
 */
const sources = readdirSync(join(root, 'src/engine/torch'), {recursive: true, encoding: 'utf8'})
  .filter(name => name.endsWith('.ts'))
  .map(name => readFileSync(join(root, 'src/engine/torch', name), 'utf8'))
const words = sources.flatMap(text => [...text.matchAll(/'([a-z_]\w*(?:\.\w+)?)'/g)].map(([, word]) => word))
const called = new Set(words.flatMap(word => [word, `${word}.Tensor`]))

/** @type {Record<string, Record<string, string>>} schema → the versions in which an operator is declared so */
const out = {}
for (const [version, file] of [...files].sort(([a], [b]) => a.localeCompare(b, 'en', {numeric: true})))
  for (const [, schema] of readFileSync(file, 'utf8').matchAll(/^- func: (.*)$/gm)) {
    const name = schema.slice(0, schema.indexOf('('))
    if (!called.has(name)) continue
    const known = (out[name] ??= {})
    known[schema] = known[schema] ? `${known[schema]} ${version}` : version
  }
writeFileSync(
  join(root, 'test/native/torch-schemas.json'),
  `${JSON.stringify({versions: [...files.keys()].sort(), operators: Object.fromEntries(Object.entries(out).sort(([a], [b]) => (a < b ? -1 : 1)))}, null, 1)}\n`
)
