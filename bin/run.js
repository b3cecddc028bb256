#!/usr/bin/env node
// CommonJS, so that this comes before anything else: Node's pool of threads, in which images are decoded, has four whatever the machine, and its size
// is read once, at first use. Reading a module is such a use.
const nodeModule = require('node:module')
const {availableParallelism} = require('node:os')
const {join} = require('node:path')
const {pathToFileURL} = require('node:url')

process.env.UV_THREADPOOL_SIZE ??= String(Math.max(4, availableParallelism()))
nodeModule.enableCompileCache?.() // Node 22 and later keep compiled code between runs
void import('../dist/src/cli/main.js').then(({main}) => main(pathToFileURL(join(__dirname, '../package.json')).href))
