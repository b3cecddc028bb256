/** What ids in masks mean, how masks are written, and the random views of training. */
import assert from 'node:assert/strict'
import {describe, it} from 'node:test'
import {classesOf, IGNORED, numbersById, numbersOf, parseClasses, ranges, defaultPalette} from '../../../src/data/targets/class-map.js'
import {readMask} from '../../../src/data/targets/depth-and-mask-files.js'
import {encodeMask} from '../../../src/data/image/png-write.js'
import {distortColours, maskView, resizeLabels} from '../../../src/data/targets/mask-augment.js'
import {overlay} from '../../../src/render/overlay.js'
import {rng} from '../../../src/tensor/random.js'

describe('classes', () => {
  it('are read with ids, with names alone, and with colours', () => {
    assert.deepEqual(parseClasses('# camera\n0 sky\n3,road #ff0080\n\n7\tpole sign\n'), [
      {id: 0, name: 'sky'},
      {id: 3, name: 'road', colour: [255, 0, 128]},
      {id: 7, name: 'pole sign'}
    ])
    assert.deepEqual(parseClasses('wall\nbuilding', 1), [
      {id: 1, name: 'wall'},
      {id: 2, name: 'building'}
    ])
    assert.throws(() => parseClasses('0 a\n0 b'), /line 2: the id 0 was there before/)
    assert.throws(() => parseClasses('# nothing\n'), /names no class/)
  })

  it('leave out what is called unlabelled, and turn ids into numbers', () => {
    const classes = classesOf(parseClasses('2 b\n0 a\n11 unlabelled'), [255])
    assert.deepEqual([classes.names, classes.ids, classes.ignored], [['a', 'b'], [0, 2], [11, 255]]) // prettier-ignore
    const byId = numbersById(classes)
    assert.deepEqual(numbersOf(Uint8Array.of(0, 2, 11, 255), byId, classes), {numbers: Uint16Array.of(0, 1, IGNORED, IGNORED)})
    assert.match(
      (numbersOf(Uint8Array.of(0, 1, 1), byId, classes) as {reason: string}).reason,
      /id 1 \(2 pixels\).*classes are 0, 2, left out 11, 255/
    )
    assert.match((numbersOf(Uint8Array.of(11), byId, classes) as {reason: string}).reason, /no pixel of its mask counts/)
    assert.equal(ranges([0, 1, 2, 5, 8, 9]), '0–2, 5, 8–9')
    const colours = defaultPalette(40)
    assert.equal(new Set(Array.from({length: 40}, (_, k) => colours.subarray(3 * k, 3 * k + 3).join())).size, 40)
  })
})

describe('masks as files', () => {
  it('come back with their ids and palette; above 255 with 16 bits', async () => {
    const ids = Uint8Array.of(0, 3, 2, 2, 1, 0)
    const palette = Uint8Array.from({length: 12}, (_, i) => i * 20)
    const bytes = encodeMask(ids, {width: 3, height: 2, palette})
    const back = await readMask({path: '', bytes})
    assert.deepEqual({...back, palette: Uint8Array.from(back.palette!)}, {width: 3, height: 2, ids, palette})
    const wide = Uint16Array.of(0, 300, 65535, 1)
    const found = await readMask({path: '', bytes: encodeMask(wide, {width: 2, height: 2, palette})})
    assert.deepEqual(found.ids, wide)
    assert.throws(() => encodeMask(ids, {width: 2, height: 2, palette}), /Expected 4 ids but received 6/)
    const {default: sharp} = await import('sharp') // other programs see the colours
    const {data} = await sharp(bytes).removeAlpha().raw().toBuffer({resolveWithObject: true})
    assert.deepEqual([...data.subarray(3, 6)], [180, 200, 220])
  })

  it('are drawn over pictures, what does not count darkened', () => {
    const photo = {width: 2, height: 1, data: new Uint8Array(6).fill(100)}
    const {data} = overlay(photo, Uint16Array.of(0, IGNORED), Uint8Array.of(200, 0, 0), 0.5)
    assert.deepEqual([...data], [53, 18, 18, 30, 30, 30]) // (50 + 100, 50, 50) with the edge's 0.35; 0.3 of the photo
  })
})

describe('views of a picture with its mask', () => {
  const photo = {width: 12, height: 8, data: Uint8Array.from({length: 12 * 8 * 3}, (_, i) => (Math.floor(i / 3) % 12) * 20)}
  const labels = Uint16Array.from({length: 12 * 8}, (_, i) => i % 12) // the label is the column, as the picture's grey tells

  it('keep picture and labels together through resizing, cropping and mirroring', () => {
    const settings = {size: 16, ratio: [1, 1], crop: 10, mostOfOne: 0.9, colours: false} as const
    const flips = new Set<boolean>()
    for (let n = 0; n < 12; n++) {
      const view = maskView(photo, labels, rng(2, n), settings)
      assert.deepEqual([view.width, view.height, view.labels.length], [10, 10, 100])
      for (let i = 0; i < 100; i++) assert.ok(Math.abs(view.pixels[3 * i]! / 20 - view.labels[i]!) < 1.6, `view ${n}, pixel ${i}`)
      flips.add(view.labels[0]! > view.labels[9]!)
      assert.deepEqual(maskView(photo, labels, rng(2, n), settings), view, 'the same draws give the same view')
    }
    assert.equal(flips.size, 2)
  })

  it('are padded where the picture is smaller than the crop', () => {
    const view = maskView(photo, labels, rng(1), {size: 8, ratio: [1, 1], crop: 16, mostOfOne: 0.9, colours: true})
    assert.deepEqual([view.width, view.height], [12, 8])
    for (let y = 0; y < 16; y++) for (let x = 0; x < 16; x++) assert.equal(view.labels[y * 16 + x] === IGNORED, x >= 12 || y >= 8)
  })

  it('avoid crops that one class fills, where they can', () => {
    const halves = Uint16Array.from({length: 96}, (_, i) => (i % 12 < 6 ? 0 : 1))
    for (let n = 0; n < 10; n++) {
      const view = maskView(photo, halves, rng(3, n), {size: 8, ratio: [1, 1], crop: 6, mostOfOne: 0.9, colours: false})
      assert.equal(new Set(view.labels).size, 2)
    }
    assert.deepEqual([...resizeLabels(Uint16Array.of(1, 2), {width: 2, height: 1}, {width: 4, height: 1}, undefined, true)], [2, 2, 1, 1])
  })

  it('distort colours within bytes, the same for the same draws', () => {
    const [a, b] = [photo.data.slice(), photo.data.slice()]
    let changed = 0
    for (let n = 0; n < 8; n++) {
      distortColours(a, rng(5, n))
      distortColours(b, rng(5, n))
      assert.deepEqual(a, b)
      if (a.some((value, i) => value !== photo.data[i])) changed++
    }
    assert.ok(changed > 0)
  })
})
