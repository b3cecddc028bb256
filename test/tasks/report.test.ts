/** Reports: metrics read back, health in words, and a page that holds what was measured. */
import assert from 'node:assert/strict'
import {mkdir, mkdtemp, rm, writeFile} from 'node:fs/promises'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {after, before, test} from 'node:test'
import {readMetrics, readRun} from '../../src/files/run/run-folder.js'
import {findings} from '../../src/tasks/report-findings.js'
import {reportRuns} from '../../src/tasks/report.js'

let folder: string
before(async () => void (folder = await mkdtemp(join(tmpdir(), 'report-'))))
after(async () => rm(folder, {recursive: true}))

const K = 1024
const settings = new Map<string, unknown>([['dino.head_n_prototypes', K]])

/** A run of 100 lines; `shape` gives the share of the way down from the uniform loss. */
const lines = (shape: (t: number) => number, more: (t: number) => object = () => ({})): string =>
  Array.from({length: 100}, (_, i) => {
    const t = i / 99
    const [local, global, ibot] = [
      0.8 * Math.log(K) * (1 - 0.06 * shape(t)),
      0.2 * Math.log(K) * (1 - 0.06 * shape(t)),
      1.7 - 0.2 * shape(t)
    ]
    return JSON.stringify({
      step: (i + 1) * 10,
      losses: {dino_local: local, dino_global: global, ibot, koleo: 0, total: local + global + ibot},
      lr: 1e-3 * (1 - t),
      images_per_second: 40,
      data_wait: 0.02,
      ...more(t)
    })
  }).join('\n') + '\n'

const said = (text: string): string[] => findings(readMetrics(text).lines, settings).map(({good, text}) => `${good ? '+' : '-'} ${text}`)

test('metrics are flattened; a later line of a step counts; a line cut short is counted, not fatal', () => {
  const {lines: read, broken} = readMetrics(
    '{"step":2,"a":1}\n{"step":1,"losses":{"ibot":3},"word":"x"}\n{"step":2,"a":5,"bad":null}\n\n{"step":3,"a":NaN}\n{"step": 4, "a'
  )
  assert.equal(broken, 1)
  assert.deepEqual(
    read.map(({step}) => step),
    [1, 2, 3]
  )
  assert.equal(read[0]!.values.get('losses.ibot'), 3)
  assert.equal(read[1]!.values.get('a'), 5)
  assert.ok(Number.isNaN(read[1]!.values.get('bad')) && Number.isNaN(read[2]!.values.get('a')))
})

test('a run that learns is distinguished from one that stands still', () => {
  const good = said(lines(t => t))
  assert.ok(
    good.every(text => text.startsWith('+')),
    good.join('\n')
  )
  assert.ok(good.some(text => /fell by 6\.\d %/.test(text)))
  const still = said(lines(() => 0))
  assert.ok(still.some(text => /^- The total loss hardly moved/.test(text)))
  assert.ok(
    still.some(text => /^- Not learning: the DINO loss stands at 6\.931 a pair, and that of a uniform guess is ln 1024 = 6\.931/.test(text))
  )
})

test('collapse, infinity, a rising end, waiting and gradient bursts are named', () => {
  assert.ok(
    said(
      lines(
        t => t,
        t => ({teacher_entropy: 6 * (1 - t)})
      )
    ).some(text => /^- The targets of the teacher are all but certain/.test(text))
  )
  assert.ok(
    said(
      lines(
        t => t,
        t => ({losses: {total: t > 0.5 ? null : 8}})
      )
    ).some(text => /^- A loss was not finite at step 510/.test(text))
  )
  assert.ok(said(lines(t => (t < 0.8 ? 2 * t : 1.6 - 12 * (t - 0.8)))).some(text => /^- It rose towards the end/.test(text)))
  assert.ok(
    said(
      lines(
        t => t,
        () => ({data_wait: 0.4})
      )
    ).some(text => /^- 40 % of the time was lost waiting/.test(text))
  )
  assert.ok(
    said(
      lines(
        t => t,
        t => ({grad_norms: {backbone: Math.abs(t - 0.6) < 0.001 ? 100 : 1}})
      )
    ).every(text => !/NaN/.test(text))
  )
  assert.ok(
    said(
      lines(
        t => t,
        t => ({cls_cosine: 0.9 + 0.1 * t})
      )
    ).some(text => /^- Collapsed: all images look alike/.test(text))
  )
  assert.deepEqual(said(''), ['- No step was recorded.'])
})

test('a page of two runs: curves, differences, results, settings; all self-contained and escaped', async () => {
  const readSettings = (path: string): Map<string, unknown> =>
    new Map<string, unknown>([
      ['dino.head_n_prototypes', K],
      ['optim.base_lr', path.includes('/one/') ? 0.004 : 0.008]
    ])
  for (const name of ['one', 'two <b>']) {
    await mkdir(join(folder, name))
    await writeFile(
      join(folder, name, 'metrics.jsonl'),
      lines(t => t)
    )
    await writeFile(join(folder, name, 'config.yaml'), 'optim:\n  base_lr: 0.004 # <script>\n')
    await writeFile(join(folder, name, 'knn.json'), JSON.stringify({val: 600, results: [{k: 10, top1: 0.5583}]}))
  }
  const {page, runs} = await reportRuns({runs: [join(folder, 'one'), join(folder, 'two <b>')], readSettings})
  assert.deepEqual(
    runs.map(({run, steps}) => [run, steps]),
    [
      ['one', 1000],
      ['two <b>', 1000]
    ]
  )
  assert.ok(runs[0]!.losses['losses.total']!.last < runs[0]!.losses['losses.total']!.first)
  assert.doesNotMatch(page, /<b>|<script|(src|href)="(?!data:)/)
  for (const text of ['Total loss', 'iBOT loss', 'Learning rate', '0.5583', 'optim.base_lr', '0.008', 'knn.json', 'two &lt;b&gt;'])
    assert.ok(page.includes(text), text)
  assert.ok(!page.includes('KoLeo loss'), 'a loss that is 0 throughout has no chart')
  assert.ok((page.match(/<svg/g) ?? []).length >= 6)
  const one = await reportRuns({
    runs: [join(folder, 'one')],
    readSettings: () => {
      throw new Error('of another version')
    }
  })
  assert.ok(one.page.includes('base_lr: 0.004'))
})

test('what is no run folder is named with exit 3', async () => {
  await assert.rejects(readRun(join(folder, 'absent')), {exit: 3, code: 'NO_INPUT'})
  await assert.rejects(readRun(folder), {exit: 3, message: /no metrics\.jsonl/})
})
