/** THIRD-PARTY-LICENSES lists the packages whose code is in the bundles, and those that npm installs. */
import assert from 'node:assert/strict'
import {spawnSync} from 'node:child_process'
import {join} from 'node:path'
import {test} from 'node:test'
import {packageFolder} from '../../src/system/paths.js'

test('THIRD-PARTY-LICENSES is what `npm run licenses` writes', () => {
  const {status, stderr} = spawnSync(process.execPath, [join(packageFolder(), 'scripts/write-licenses.js'), '--check'], {encoding: 'utf8'})
  assert.equal(status, 0, stderr)
})
