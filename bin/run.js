#!/usr/bin/env node
// CommonJS, so that this comes before anything else: Node's pool of threads, in which images are decoded, has four whatever the machine, and its size
// is read once, at first use. Reading a module is such a use.
const {statSync} = require('node:fs')
const nodeModule = require('node:module')
const {availableParallelism} = require('node:os')
const {join} = require('node:path')
const {pathToFileURL} = require('node:url')

process.env.UV_THREADPOOL_SIZE ??= String(Math.max(4, availableParallelism()))
nodeModule.enableCompileCache?.() // Node 22 and later keep compiled code between runs

// Few files open faster than hundreds (scripts/bundle-program.js), but what was compiled after them is newer.
const dist = join(__dirname, '../dist')
const changed = path => statSync(join(dist, path), {throwIfNoEntry: false})?.mtimeMs ?? 0
const isBundled = changed('bundle/oclif.manifest.json') > changed('.tsbuildinfo')
const [program, manifest] = isBundled ? ['bundle/core.js', 'bundle/package.json'] : ['src/cli/main.js', '../package.json']
void import(pathToFileURL(join(dist, program)).href).then(({main}) => main(pathToFileURL(join(dist, manifest)).href))
