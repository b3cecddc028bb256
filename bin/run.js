#!/usr/bin/env node
import module from 'node:module'

module.enableCompileCache?.() // Node 22 and later keep compiled code between runs
const {main} = await import('../dist/src/cli/main.js')
await main(import.meta.url)
