/**
 * Pictures of attention and of similar patches, on drawn pictures and a tiny backbone; and the page that computes by
 * itself.
 */
import assert from 'node:assert/strict'
import {createHash} from 'node:crypto'
import {mkdtemp, rm} from 'node:fs/promises'
import {tmpdir} from 'node:os'
import {join} from 'node:path'
import {after, before, describe, it} from 'node:test'
import {runInNewContext} from 'node:vm'
import {decodeRgb} from '../../../src/data/image/decode.js'
import {percentOf, visualizeAttention} from '../../../src/tasks/visualize/attention.js'
import {visualizeMatch, type MatchRow} from '../../../src/tasks/visualize/match.js'
import {cosines, visualizeSimilarity} from '../../../src/tasks/visualize/similarity.js'
import {drawnFolder} from '../../support/drawn-images.js'
import {saveTiny} from '../../support/tiny-backbone.js'

describe('visualize attention and similarity', () => {
  let place: string
  before(async () => {
    place = await mkdtemp(join(tmpdir(), 'maps-'))
    await saveTiny(join(place, 'tiny.safetensors'))
    await drawnFolder(join(place, 'pictures'), ['one', 'two'], 2)
  })
  after(() => rm(place, {recursive: true}))
  const shared = () => ({
    images: [join(place, 'pictures')],
    model: join(place, 'tiny.safetensors'),
    engine: {engine: 'torch', device: 'cpu', precision: 'fp32', threads: 1, note: () => undefined} as const,
    size: 56,
    limit: 3,
    smooth: false
  })

  it('draws the mean of the heads and each, for any block', async () => {
    const {content, report} = await visualizeAttention({...shared(), heads: true, registers: true, block: -2, format: 'png'})
    assert.deepEqual([report.images, report.leftOut, report.block, report.heads, report.registers], [3, 1, 1, 2, 0])
    assert.ok(report.onPatches.every(share => share > 0.5 && share < 1)) // the rest is for the class token itself
    const image = await decodeRgb({id: 'x', path: 'x', fields: {}, bytes: content as Uint8Array})
    assert.ok(image.width > 4 * 200 && image.height > 3 * 200)
    await assert.rejects(
      visualizeAttention({...shared(), heads: false, registers: false, block: 3, format: 'png'}),
      /There is no block 3: the model has 3, from 0 to 2/
    )
  })

  it('finds the patch that was asked for, and writes a page that asks again by itself', async () => {
    const {content, report} = await visualizeSimilarity({...shared(), at: [0.9, 0.1], format: 'html'})
    assert.deepEqual([report.patch, report.live, report.best.length], [[3, 0], true, 3])
    const page = content as string
    const code = /<script>([\s\S]*)<\/script>/.exec(page)![1]!
    assert.ok(
      page.includes(`script-src 'sha256-${createHash('sha256').update(code).digest('base64')}'`),
      'the browser gets the hash of the script'
    )
    // The script of the page, with the little of a browser that it needs: clicks give the cosines that the engine
    // gives, but for the rounding to bytes.
    const clicks: ((event: unknown) => void)[] = []
    const reported: {textContent: string}[] = []
    const mark = {hidden: false, style: {} as Record<string, string>}
    const context = {createImageData: (w: number, h: number) => ({data: new Uint8ClampedArray(4 * w * h)}), putImageData: () => undefined}
    const elements = (id: string): unknown => {
      if (id === 'opacity') return {addEventListener: () => undefined}
      if (!id.startsWith('p')) return {textContent: new RegExp(`id="${id}">([\\s\\S]*?)</script>`).exec(page)![1]}
      const own = {textContent: ''}
      reported.push(own)
      return {
        querySelector: (what: string): unknown =>
          what === 'canvas'
            ? {getContext: () => context}
            : what === '.mark'
              ? mark
              : what === '.highest'
                ? own
                : {addEventListener: (_: string, f: (event: unknown) => void) => clicks.push(f)}
      }
    }
    runInNewContext(code, {document: {getElementById: elements, body: {style: {}}}, atob})
    const cosine = (text: string): number => Number(text.replace('highest cosine ', ''))
    report.best.forEach(({cosine: expected}, i) =>
      assert.ok(Math.abs(cosine(reported[i]!.textContent) - expected) < 0.01, `${reported[i]!.textContent} for ${expected}`)
    )
    const [x, y] = [0.3, 0.6]
    clicks[0]!({
      currentTarget: {getBoundingClientRect: () => ({left: 10, top: 20, width: 100, height: 100})},
      clientX: 10 + 100 * x,
      clientY: 20 + 100 * y
    })
    const other = await visualizeSimilarity({...shared(), at: [x, y], format: 'png'})
    assert.deepEqual(other.report.patch, [1, 2])
    other.report.best.forEach(({cosine: expected}, i) => assert.ok(Math.abs(cosine(reported[i]!.textContent) - expected) < 0.01))
    assert.equal(mark.style['left'], '25%')
    const still = await visualizeSimilarity({...shared(), at: [0.9, 0.1], pageBytes: 0, format: 'html'})
    assert.ok(!still.report.live && !(still.content as string).includes('<script'))
    await assert.rejects(visualizeSimilarity({...shared(), at: [400, 3], format: 'png'}), /lies outside of .*, which is 40 × 40 pixels/)
  })

  it('matches every patch of an image with itself, and of two images those that are each other’s nearest', async () => {
    const [one, two] = ['one/000.png', 'two/000.png'].map(name => join(place, 'pictures', name)) as [string, string]
    const ask = async (images: string[], more: object = {}) =>
      visualizeMatch({...shared(), images, minSimilarity: -1, limit: undefined, format: 'jsonl', ...more})
    const rows = ({content}: {content: Uint8Array | string}): MatchRow[] =>
      (content as string)
        .split('\n')
        .filter(Boolean)
        .map(line => JSON.parse(line) as MatchRow)
    const self = await ask([one, one])
    assert.deepEqual([self.report.mutual, self.report.matches], [16, 16])
    for (const {x_a, x_b, y_a, y_b, similarity} of rows(self)) {
      assert.deepEqual([x_a, y_a], [x_b, y_b])
      assert.ok(Math.abs(similarity - 1) < 1e-5)
    }
    // 4 × 4 patches of an image of 40 × 40 pixels: centres at 5, 15, 25, 35.
    assert.deepEqual(
      [...new Set(rows(self).map(({x_a}) => x_a))].sort((a, b) => a - b),
      [5, 15, 25, 35]
    )
    const both = await ask([one, two])
    const similarities = rows(both).map(({similarity}) => similarity)
    assert.ok(both.report.matches > 0 && both.report.matches <= 16)
    assert.deepEqual(
      similarities,
      [...similarities].sort((a, b) => b - a)
    )
    assert.equal(new Set(rows(both).map(({x_b, y_b}) => `${x_b} ${y_b}`)).size, both.report.matches, 'no patch is matched twice')
    assert.equal(rows(await ask([one, two], {limit: 2})).length, 2)
    assert.equal(rows(await ask([one, two], {minSimilarity: similarities[1]! - 1e-6})).length >= 2, true)
    const {content} = await ask([one, two], {format: 'png'})
    const {width, height} = await decodeRgb({id: 'x', path: 'x', fields: {}, bytes: content as Uint8Array})
    assert.ok(width > 800 && height > 400)
    assert.match((await ask([one, two], {format: 'html'})).content as string, /<img src="data:image\/png/)
    await assert.rejects(ask([join(place, 'pictures')]), /Two images are matched, but 4 were named/)
    await assert.rejects(ask([one]), /only one was named/)
  })

  it('of a patch with itself is 1, of opposite ones −1', () => {
    assert.deepEqual(
      [...cosines(Float32Array.of(0.6, 0.8), Float32Array.of(0.6, 0.8, -0.6, -0.8, 0.8, -0.6))].map(v => Math.round(v * 1e6) / 1e6),
      [1, -1, 0]
    )
  })

  it('shares of attention keep their size, very small and very large ones too', () =>
    assert.deepEqual([0, 1e-9, 0.00305, 0.0123, 0.998, 1].map(percentOf), ['0 %', '< 0.001 %', '0.3 %', '1.2 %', '100 %', '100 %']))
})
