/**
 * A whole command line of each command that names files, for tests that go through the declarations of all commands
 * and add or replace one word; and the small inputs that these lines name.
 */
import assert from 'node:assert/strict'
import {writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {drawnRooms} from './drawn-depth.js'
import {drawnFolder} from './drawn-images.js'
import {drawnScenes} from './drawn-masks.js'
import type {CommandServer} from './program.js'
import {saveTiny} from './tiny-backbone.js'

export const model = '--model tiny.safetensors --size 28'
export const short = `${model} --baseline none`
export const commandLines: Readonly<Record<string, string>> = {
  'depth-eval': `--train rooms/images/train --val rooms/images/val --depths rooms/depth ${short} --steps 1`,
  distill: 'photos --teacher tiny.safetensors -o out',
  embed: `photos ${model} -o out.arrow`,
  explore: `photos ${model} -o out`,
  export: 'tiny.safetensors --to meta -o out.pth',
  'knn-eval': `--train photos --val photos ${short} -k 1`,
  'linear-eval': `--train photos --val photos ${short} --steps 1 --cached`,
  pretrain: 'photos -o out',
  report: 'photos -o out.html',
  'retrieval-eval': `photos ${short}`,
  search: 'vectors.index vectors.jsonl -o out.jsonl',
  'seg-eval': `--train scenes/images/train --val scenes/images/val --masks scenes/masks ${short} --steps 1`,
  'curate:cluster': 'vectors.jsonl --levels 2 -o out.jsonl',
  'curate:decontaminate': 'vectors.jsonl --against vectors.jsonl -o out.jsonl',
  'curate:dedup': 'vectors.jsonl -o out.jsonl',
  'curate:filter': 'photos -o out.jsonl',
  curate: 'photos --stages filter -o out.jsonl',
  'curate:mislabelled': 'vectors.jsonl -o out.jsonl',
  'curate:outliers': 'vectors.jsonl -o out.jsonl',
  'curate:retrieve': 'vectors.jsonl --seeds vectors.jsonl --per-seed 1 -o out.jsonl',
  'curate:sample': 'vectors.jsonl --target 2 -o out.jsonl',
  'engine:verify': '',
  index: 'vectors.jsonl -o out.index',
  'models:pull': 'dinov2_vits14 -o out.pth',
  'predict:classify': `photos ${model} --head classes.safetensors -o out.jsonl`,
  'predict:depth': `photos ${model} --head depth.safetensors -o out`,
  'predict:segment': `photos ${model} --head segment.safetensors -o out`,
  'samples:draw': '--per-class 1 --val-per-class 0 --size 32 -o out',
  'samples:pull': 'flowers -o out',
  'visualize:attention': `photos ${model} -o out.png`,
  'visualize:depth': `photos ${model} --head depth.safetensors -o out.html`,
  'visualize:match': `photos/one/000.png photos/two/000.png ${model} -o out.png`,
  'visualize:neighbours': 'vectors.index vectors.jsonl -o out.html',
  'visualize:pca': `photos ${model} -o out.png`,
  'visualize:segment': `photos ${model} --head segment.safetensors -o out.html`,
  'visualize:similarity': `photos ${model} -o out.html`
}

/** Makes what the lines name in `dir`, by the commands of a server that works there. */
export async function drawInputs(dir: string, server: CommandServer): Promise<void> {
  await saveTiny(join(dir, 'tiny.safetensors'))
  await drawnFolder(join(dir, 'photos'), ['one', 'two'], 2)
  for (const set of ['train', 'val']) {
    await drawnRooms(join(dir, 'rooms'), set, 1)
    await drawnScenes(join(dir, 'scenes'), set, 1)
  }
  const row = (n: number): string => JSON.stringify({id: `i${n}`, label: `l${n % 2}`, vector: [n, 1, -n, 2]})
  writeFileSync(join(dir, 'vectors.jsonl'), [1, 2, 3, 4].map(row).join('\n'))
  for (const made of [
    'index vectors.jsonl -o vectors.index',
    `embed photos ${model} -o photos.jsonl`,
    'index photos.jsonl -o photos.index',
    `linear-eval ${commandLines['linear-eval']} --head-out classes.safetensors`,
    `depth-eval ${commandLines['depth-eval']} --head-out depth.safetensors`,
    `seg-eval ${commandLines['seg-eval']} --head-out segment.safetensors`
  ]) {
    const {status, stderr} = await server.run(...made.split(' '), '-q')
    assert.equal(status, 0, `${made}: ${stderr}`)
  }
}
