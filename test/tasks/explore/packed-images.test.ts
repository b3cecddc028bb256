/** The small pictures of the map: images in a tar shard or a Parquet file give those of images in a folder. */
import assert from 'node:assert/strict'
import {mkdirSync, readdirSync, readFileSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {after, test} from 'node:test'
import {drawnImage} from '../../support/drawn-images.js'
import {imageColumn, parquetOf} from '../../support/parquet.js'
import {CommandServer, folder, realBinary, run} from '../../support/program.js'
import {tarOf} from '../../support/tar.js'

const dir = folder()
const server = new CommandServer({env: {DINOV2_ENGINE: 'wasm', DINOV2_WORKERS: '1'}, cwd: dir})
after(() => server.end())

test('images of a shard and of a Parquet file have the small pictures of those in a folder', async () => {
  const images: {name: string; bytes: Buffer}[] = []
  for (let i = 0; i < 8; i++) images.push({name: `${i}.png`, bytes: Buffer.from(await drawnImage(i % 3, i))})
  mkdirSync(join(dir, 'photos'))
  for (const {name, bytes} of images) writeFileSync(join(dir, 'photos', name), bytes)
  writeFileSync(join(dir, 'photos.tar'), await tarOf(images.map(({name, bytes}) => [name, bytes] as const)))
  writeFileSync(join(dir, 'photos.parquet'), parquetOf({image: imageColumn(images.map(({bytes}) => ({bytes, path: null})))}))
  const pictures: Buffer[] = []
  for (const input of ['photos', 'photos.tar', 'photos.parquet']) {
    const site = `site-${pictures.length}`
    const {status, stderr} = await server.run('explore', input, '--model', 'starter', '--size', '32', '-o', site)
    assert.equal(status, 0, stderr)
    assert.deepEqual(
      readdirSync(join(dir, site)).filter(name => name.startsWith('pictures-')),
      ['pictures-0.jpg'],
      input
    )
    pictures.push(readFileSync(join(dir, site, 'pictures-0.jpg')))
  }
  const given = ['--model', 'starter', '--size', '32', '--engine', 'wasm', '-o', 'site-piped']
  const {status, stderr} = await run(realBinary, ['explore', '-', ...given], {cwd: dir, input: readFileSync(join(dir, 'photos.tar'))})
  assert.equal(status, 0, stderr)
  pictures.push(readFileSync(join(dir, 'site-piped', 'pictures-0.jpg')))
  assert.ok(pictures[0]!.length > 1000)
  for (const packed of pictures.slice(1)) assert.ok(packed.equals(pictures[0]!))
})
