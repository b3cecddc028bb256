/**
 * Drawn pictures: the same for the same seed, different otherwise, and of a class by shape, not by colour or
 * brightness.
 */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {chance} from '../../src/synthetic/random.js'
import {drawInThreads} from '../../src/synthetic/draw-in-threads.js'
import {CLASSES, drawPicture, drawWithMaps, REGIONS, type Picture} from '../../src/synthetic/picture.js'
import {compose} from '../../src/synthetic/scene.js'
import {THINGS, clutter} from '../../src/synthetic/objects.js'
import {STYLES} from '../../src/synthetic/style.js'

const picture = (kind: string, number: number, {split = 'train', style = 'plain'}: Partial<Picture> = {}): Picture => ({
  kind,
  number,
  split,
  style
})

test('sixteen classes in two styles, each drawn without a hole, with structure and with colours that vary', () => {
  assert.equal(CLASSES.length, 16)
  for (const [kind, style] of CLASSES.flatMap(kind => [[kind, 'plain'] as const, [kind, 'hard'] as const])) {
    const means: number[] = []
    for (let number = 0; number < 4; number++) {
      const pixels = drawPicture(picture(kind, number, {style}), 32, 0)
      assert.equal(pixels.length, 32 * 32 * 3)
      const mean = pixels.reduce((sum, value) => sum + value, 0) / pixels.length
      const deviation = Math.sqrt(pixels.reduce((sum, value) => sum + (value - mean) ** 2, 0) / pixels.length)
      assert.ok(deviation > 6, `${kind} ${number} is nearly one colour (deviation ${deviation})`)
      means.push(mean)
    }
    assert.ok(new Set(means.map(mean => mean.toFixed(3))).size === 4, `${kind} looks the same every time`)
  }
})

test('the same seed gives the same bytes; another seed, split, number or class gives others', () => {
  const one = drawPicture(picture('mug', 3), 24, 7)
  assert.deepEqual(drawPicture(picture('mug', 3), 24, 7), one)
  const others = [
    drawPicture(picture('mug', 3), 24, 8),
    drawPicture(picture('mug', 4), 24, 7),
    drawPicture(picture('mug', 3, {split: 'val'}), 24, 7),
    drawPicture(picture('mug', 3, {style: 'hard'}), 24, 7),
    drawPicture(picture('star', 3), 24, 7)
  ]
  for (const other of others) assert.notDeepEqual(other, one)
})

test('a distance field never oversteps: a ball of that radius around a point holds no surface', () => {
  const draws = chance(1, 'points')
  for (const [name, {make}] of [...Object.entries(THINGS), ['clutter', {make: clutter}] as const])
    for (let n = 0; n < 3; n++) {
      const {distance, part, reach} = make(chance(n, 'solid', name))
      for (let i = 0; i < 200; i++) {
        const place = [draws.range(-reach, reach), draws.range(-reach, reach), draws.range(-reach, reach)] as const
        const d = distance(...place)
        assert.ok(Number.isFinite(d), `${name}: ${d} at ${place.join()}`)
        const which = part(...place)
        assert.ok(Number.isInteger(which) && which >= 0 && which < 4, `${name}: part ${which}`)
        if (d <= 0.02) continue
        const [u, v] = [draws.range(-1, 1), draws.range(0, 2 * Math.PI)]
        const r = 0.9 * d
        const w = Math.sqrt(1 - u * u)
        const inside = distance(place[0] + r * w * Math.cos(v), place[1] + r * u, place[2] + r * w * Math.sin(v))
        assert.ok(
          inside > -0.08,
          `${name} promises ${d.toFixed(3)} free at ${place.map(x => x.toFixed(2)).join()}, but is ${inside.toFixed(3)} there`
        )
      }
      // nothing of it lies outside its ball
      for (let i = 0; i < 100; i++) {
        const [u, v] = [draws.range(-1, 1), draws.range(0, 2 * Math.PI)]
        const w = Math.sqrt(1 - u * u)
        const r = reach * 1.03
        assert.ok(distance(r * w * Math.cos(v), r * u, r * w * Math.sin(v)) > 0, `${name} reaches beyond its ball of ${reach}`)
      }
    }
})

test('colours, light and background are drawn alike for all classes', () => {
  const mean = (kind: string): number[] => {
    const sums = [0, 0, 0]
    for (let i = 0; i < 150; i++) {
      const {things, light} = compose(kind, chance(0, 'samples', 'train', kind, i), STYLES.hard)
      const shown = things[0]!.paint.parts[0]
      for (let c = 0; c < 3; c++) sums[c]! += shown[c]! / 150
      assert.ok(light.towards[1] > 0, 'the light comes from below')
    }
    return sums
  }
  const [star, tree] = [mean('star'), mean('tree')]
  for (let c = 0; c < 3; c++) assert.ok(Math.abs(star[c]! - tree[c]!) < 0.1, `channel ${c}: ${star[c]} and ${tree[c]}`)
})

test('in the plain style a class has two hues, which another class shares, and everything else is dull', () => {
  /** Hue from 0 to 6, and saturation. */
  const hueOf = ([r, g, b]: readonly number[]): {hue: number; saturation: number} => {
    const [most, least] = [Math.max(r!, g!, b!), Math.min(r!, g!, b!)]
    const span = most - least || 1
    const hue = most === r ? ((g! - b!) / span + 6) % 6 : most === g ? (b! - r!) / span + 2 : (r! - g!) / span + 4
    return {hue, saturation: most > 0 ? (most - least) / most : 0}
  }
  const apart = (a: number, b: number): number => Math.min(Math.abs(a - b), 6 - Math.abs(a - b))
  const things = CLASSES.filter(kind => kind in THINGS)
  for (const kind of things)
    for (let i = 0; i < 10; i++) {
      const {things: placed, floor} = compose(kind, chance(0, 'samples', 'train', kind, i), STYLES.plain)
      assert.equal(placed.length, 1, 'no clutter')
      const first = hueOf(placed[0]!.paint.parts[0])
      const expected = ((CLASSES.indexOf(kind) % 8) * 6) / 8
      assert.ok(apart(first.hue, expected) <= 0.35 + 1e-6 && first.saturation >= 0.4 - 1e-6, `${kind}: ${first.hue}, not ${expected}`)
      if (floor) assert.ok(hueOf(floor.colours[0]).saturation <= 0.3 + 1e-6)
    }
  for (const [order, kind] of CLASSES.entries())
    assert.ok(
      CLASSES.some((other, at) => other !== kind && at % 8 === order % 8),
      kind
    )
})

test('maps: the picture stays as it is; regions and depth say what a ray meets', () => {
  for (const kind of ['mug', 'bricks', 'house']) {
    const picture = {kind, split: 'train', number: 3, style: 'hard'} as const
    const {pixels, depth, regions} = drawWithMaps(picture, 48, 0)
    assert.deepEqual(pixels, drawPicture(picture, 48, 0))
    assert.equal(depth.length, 48 * 48)
    for (const [i, region] of regions.entries()) {
      assert.ok(region < REGIONS.length)
      assert.equal(depth[i] === 0, region === 0, 'depth is unknown where nothing is met, and only there')
      assert.ok(depth[i]! >= 0 && depth[i]! <= 40)
    }
    if (kind !== 'bricks') continue // where all is floor, what stands higher in the picture is farther away
    const floor = REGIONS.indexOf('floor')
    const mean = (row: number): number => {
      const own = [...depth.subarray(row * 48, (row + 1) * 48)].filter((_, x) => regions[row * 48 + x] === floor)
      return own.length < 24 ? NaN : own.reduce((a, b) => a + b, 0) / own.length
    }
    const rows = Array.from({length: 48}, (_, row) => mean(row)).filter(Number.isFinite)
    assert.ok(rows.length > 5 && rows[0]! > rows.at(-1)!, kind)
  }
})

test('threads draw the same pictures in the same order, and end with the iteration', async () => {
  const pictures = Array.from({length: 100}, (_, number) => picture(CLASSES[number % 16]!, number))
  const setup = {size: 12, seed: 3, maps: true}
  const alone = pictures.map(one => drawWithMaps(one, 12, 3))
  const together = []
  for await (const drawn of drawInThreads(pictures, setup, 2)) together.push(drawn)
  assert.deepEqual(together, alone)
  for await (const drawn of drawInThreads(pictures, {...setup, maps: false}, 2)) {
    assert.deepEqual(drawn, {pixels: alone[0]!.pixels})
    break
  }
})

test('what ends a thread is an error of whoever waits', async () => {
  const pictures = Array.from({length: 96}, (_, number) => picture('mug', number, {style: (number === 50 ? 'none' : 'plain') as 'plain'}))
  await assert.rejects(async () => {
    for await (const drawn of drawInThreads(pictures, {size: 12, seed: 3, maps: false}, 2)) assert.ok(drawn.pixels)
  }, /Cannot read properties of undefined/)
})
