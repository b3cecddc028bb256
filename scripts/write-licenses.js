/**
 * Writes THIRD-PARTY-LICENSES: the licences of all packages whose code is in the bundles (scripts/bundle.js), which the package hands on, and
 * the names and licences of those that npm installs beside it. `--check` compares instead, and ends with status 1
 * where they differ.
 */
import {existsSync, readFileSync, readdirSync, writeFileSync} from 'node:fs'
import {fileURLToPath} from 'node:url'

const root = fileURLToPath(new URL('..', import.meta.url))
const file = `${root}THIRD-PARTY-LICENSES`
const bundled = JSON.parse(readFileSync(`${root}dist/bundled.json`, 'utf8'))
const {packages} = JSON.parse(readFileSync(`${root}package-lock.json`, 'utf8'))

/** The folders in which packages of a name lie, as the lock file lists them. */
const places = name => Object.keys(packages).filter(path => path.endsWith(`node_modules/${name}`))

/** The text of the licence that lies in a package's folder; some packages name theirs in package.json only. */
function licenseText(path) {
  const name = readdirSync(`${root}${path}`).find(entry => /^(licen[cs]e|copying)(-mit)?(\.(md|txt))?$/i.test(entry))
  return name ? readFileSync(`${root}${path}/${name}`, 'utf8').replace(/\r/g, '').trim() : undefined
}

/** Where a package carries no text: who holds the rights, as its sources say at their heads. */
const holders = {
  '@tensorflow/tfjs-core': 'Copyright 2018-2021 Google LLC',
  '@tensorflow/tfjs-backend-cpu': 'Copyright 2020-2021 Google LLC',
  '@tensorflow/tfjs-backend-wasm': 'Copyright 2019-2021 Google LLC',
  '@tensorflow/tfjs-backend-webgpu': 'Copyright 2019-2023 Google LLC'
}

/** The text of the MIT licence, for packages that name it and carry no copy. */
const mit = `Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated documentation files (the
"Software"), to deal in the Software without restriction, including without limitation the rights to use, copy, modify, merge, publish,
distribute, sublicense, and/or sell copies of the Software, and to permit persons to whom the Software is furnished to do so, subject to
the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE WARRANTIES OF
MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY
CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE
SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.`

const line = '-'.repeat(100)
const sections = bundled.flatMap(name =>
  places(name)
    .filter(path => existsSync(`${root}${path}/package.json`))
    .map(path => {
      const {version, license, author} = JSON.parse(readFileSync(`${root}${path}/package.json`, 'utf8'))
      const who = holders[name] ?? (typeof author === 'object' ? author.name : author)
      const terms = license === 'MIT' ? mit : `Under the terms of ${license}; the text of Apache-2.0 is in LICENSE.`
      const text = licenseText(path) ?? `${who ?? name}\n\n${terms}`
      return `${line}\n${name} ${version} (${license})\n${line}\n\n${text}\n`
    })
)

/** The names of our optional dependencies and of all that they depend on; the optional ones of others are for other machines. */
function optionalNames() {
  const names = new Set()
  const add = name => {
    if (names.has(name)) return
    names.add(name)
    for (const path of places(name)) Object.keys(packages[path].dependencies ?? {}).forEach(add)
  }
  Object.keys(packages[''].optionalDependencies ?? {}).forEach(add)
  return names
}
const ours = optionalNames()

/** What npm installs beside this package, and what of it is a library of several licences. */
const installed = Object.entries(packages)
  .filter(([path, {dev, devOptional, optional, peer}]) => {
    const isOptional = optional && !ours.has(path.replace(/^.*node_modules\//, ''))
    return path && !dev && !devOptional && !isOptional && !peer
  })
  .map(([path, {version, license}]) => `${path.replace(/^.*node_modules\//, '')} ${version} (${license ?? 'see package'})`)

const text = `Third-party licences

dinov2 itself is under Apache-2.0 (LICENSE). This file is written by scripts/write-licenses.js.

npm installs these packages beside it, each with its own licence file:

${[...new Set(installed)]
  .sort()
  .map(entry => `  ${entry}`)
  .join('\n')}

sharp brings libvips as a library of its own (LGPL-3.0-or-later, with the libraries that its package @img/sharp-libvips-… lists), which is
linked dynamically and may be replaced.

The code of these packages is bundled into dist/:

${sections.join('\n')}`

if (!process.argv.includes('--check')) writeFileSync(file, text)
else if (!existsSync(file) || readFileSync(file, 'utf8') !== text) {
  process.stderr.write('THIRD-PARTY-LICENSES is out of date: run `npm run licenses`\n')
  process.exitCode = 1
}
