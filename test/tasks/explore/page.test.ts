/**
 * The site of `explore` in a real browser: features are those of `embed`, classes, depth and regions those of
 * `predict`, the map answers clicks, keys and the lasso, lists are taken by other commands, and no request leaves the
 * site. One site and one browser serve all cases; what the page is held against is computed in this process.
 */
import assert from 'node:assert/strict'
import {existsSync, readFileSync} from 'node:fs'
import {mkdir, writeFile} from 'node:fs/promises'
import {get} from 'node:http'
import {join} from 'node:path'
import {after, before, describe, it} from 'node:test'
import {setTimeout as wait} from 'node:timers/promises'
import {pathToFileURL} from 'node:url'
import type {Browser, Page} from 'playwright-core'
import type {ImageRef} from '../../../src/data/sources/image-ref.js'
import {listImages} from '../../../src/data/sources/source.js'
import {startEngine} from '../../../src/engine/start.js'
import {vectorCosine as cosine} from '../../../src/page/similarity.js'
import {inspectInputs} from '../../../src/tasks/curate/pool-inputs.js'
import {embed, loadEmbedder} from '../../../src/tasks/embed/embedder.js'
import {loadBackbone} from '../../../src/tasks/embed/load-backbone.js'
import {classifyImages} from '../../../src/tasks/eval/classification/predict.js'
import {predictEach} from '../../../src/tasks/eval/depth/predict.js'
import {segmentImages} from '../../../src/tasks/eval/segmentation/predict.js'
import {startBrowser} from '../../support/browser.js'
import {drawnFolder, drawnImage} from '../../support/drawn-images.js'
import {saveHeads} from '../../support/onnx-models.js'
import {folder, realBinary, run, start} from '../../support/program.js'

type PlainAnalysis = {
  readonly vector: number[]
  readonly classes: {readonly name: string; readonly probability: number}[]
  readonly depth: {readonly metres: number[]}
  readonly regions: {readonly width: number; readonly height: number; readonly labels: number[]}
}

/** An expression of the page: what an element says of itself by `data-NAME`. */
const dataOf = (id: string, name: string): string => `Number(document.getElementById('${id}').dataset.${name})`
/** Waits until an expression is true in the page, which may not evaluate texts itself. */
async function until(expression: string, on: Page = page): Promise<void> {
  for (const end = Date.now() + 60_000; !(await on.evaluate(expression)); await wait(50))
    if (Date.now() > end) throw new Error(`it did not become true that ${expression}`)
}
const statusMatches = (id: string, pattern: RegExp): Promise<unknown> =>
  until(`${pattern}.test(document.getElementById('${id}').textContent)`)

const dir = folder()
const env = {DINOV2_ENGINE: 'wasm', DINOV2_WORKERS: '0'}
const engine = {engine: 'wasm', precision: 'fp32', note: () => undefined} as const
const {signal} = new AbortController()
const images = [join(dir, 'queries')]
const refuse = (bad: unknown): never => assert.fail(JSON.stringify(bad))
const predicted = {images, model: 'starter', engine, signal, onRejected: refuse}
let heads: {classify: string; depth: string; segment: string}
let program: ReturnType<typeof start>
let browser: Browser
let page: Page
let url = ''
const foreign: string[] = []
const complaints: string[] = []

before(async () => {
  await drawnFolder(join(dir, 'photos'), ['one', 'two', 'three'], 12)
  // A copy, and a picture in the wrong folder.
  await writeFile(join(dir, 'photos/one/copy.png'), readFileSync(join(dir, 'photos/one/000.png')))
  await writeFile(join(dir, 'photos/two/strange.png'), await drawnImage(0, 99))
  await mkdir(join(dir, 'queries'))
  await writeFile(join(dir, 'queries/square.png'), await drawnImage(1, 50, 96, 96))
  await writeFile(join(dir, 'queries/wide.png'), await drawnImage(2, 51, 157, 120))
  await startEngine(engine)
  using backbone = await loadBackbone('starter')
  const [classify, depth, segment] = await saveHeads(dir, backbone, {size: 96, crop: 64, stride: 48})
  heads = {classify: classify!, depth: depth!, segment: segment!}
  const given = Object.values(heads).flatMap(head => ['--head', head])
  program = start(realBinary, ['explore', 'photos', '--model', 'starter', ...given, '-o', 'site', '--serve'], {env, cwd: dir, input: null})
  let text = ''
  const [opened] = await Promise.all([
    startBrowser(),
    new Promise<void>((done, failed) => {
      program.child.stderr!.on('data', (part: string) => {
        text += part
        url = /http:\/\/127\.0\.0\.1:\d+\//.exec(text)?.[0] ?? ''
        if (url) done()
      })
      void program.ended.then(({stderr}) => failed(new Error(stderr)))
    })
  ])
  browser = opened
  page = await browser.newPage({viewport: {width: 1000, height: 700}})
  page.on('request', request => {
    if (!request.url().startsWith(url) && !/^(blob|data):/.test(request.url())) foreign.push(request.url())
  })
  page.on('console', message => void (message.type() === 'error' && complaints.push(message.text())))
  page.on('pageerror', error => complaints.push(error.message))
  await page.goto(`${url}?backend=wasm`)
})

after(async () => {
  await browser?.close()
  program?.child.kill('SIGKILL')
})

const texts = (selector: string): Promise<string[]> => page.locator(selector).allTextContents()

/** The answer to a request as a plain client makes it. */
const ask = (path: string, headers: Record<string, string> = {}): Promise<{status: number; headers: Record<string, unknown>}> =>
  new Promise((done, failed) =>
    get(url.replace(/\/$/, path), {headers}, response => {
      response.resume()
      done({status: response.statusCode!, headers: response.headers})
    }).on('error', failed)
  )

describe('the map', () => {
  it('shows all images, and tells of a picked one which are nearest', async () => {
    await until(`${dataOf('points', 'seen')} === 38`)
    await page.locator('#points').focus()
    await page.keyboard.press('Enter')
    assert.match((await texts('#picked dl')).join(), /photos\/(one|two|three)\/\w+\.png/)
    assert.equal((await texts('#picked .thumbs .thumb')).length, 15)
    for (let i = 0; i < 8; i++) await page.keyboard.press('+')
    await until(`${dataOf('points', 'seen')} < 38`)
    await page.keyboard.press('0')
    await until(`${dataOf('points', 'seen')} === 38`)
  })

  /** What the list that is chosen saves, read as every command reads lists. */
  const saved = async (name: string): Promise<ImageRef[]> => {
    await page.selectOption('#list', name)
    const [download] = await Promise.all([page.waitForEvent('download'), page.click('#save')])
    assert.equal(download.suggestedFilename(), `${name}.jsonl`)
    const list = join(dir, `${name}.jsonl`)
    await download.saveAs(list)
    assert.deepEqual((await inspectInputs([list], process.stdin)).embeddings, false)
    const refs: ImageRef[] = []
    for await (const ref of listImages([list], {onSkipped: refuse})) refs.push(ref)
    assert.ok(refs.length > 0 && refs.every(({path}) => existsSync(String(path))), `${name}: ${JSON.stringify(refs)}`)
    assert.equal(refs.length, readFileSync(list, 'utf8').trim().split('\n').length)
    return refs
  }

  it('saves lists that every command takes', async () => {
    const copies = await saved('duplicates')
    assert.ok(copies.some(({id, fields}) => id === 'photos/one/copy.png' && fields['similar_to'] === 'photos/one/000.png'))
    const doubtful = await saved('doubtful')
    assert.ok(doubtful.some(({id, fields}) => id === 'photos/two/strange.png' && fields['neighbours_label'] === 'one'))
    assert.ok((await saved('representatives')).length > 1)
    const outliers = await saved('outliers')
    const {status, stdout} = await run(realBinary, ['curate', 'filter', 'outliers.jsonl', '--rejected', 'rest.jsonl', '-q'], {
      env,
      cwd: dir
    })
    assert.equal(status, 0)
    const rest = readFileSync(join(dir, 'rest.jsonl'), 'utf8')
    assert.equal((stdout + rest).split('\n').filter(Boolean).length, outliers.length)
  })

  it('lists what a lasso catches', async () => {
    await page.click('#lasso')
    const {x, y, width, height} = (await page.locator('#points').boundingBox())!
    await page.mouse.move(x + 2, y + 60)
    await page.mouse.down()
    for (const [px, py] of [
      [x + width - 2, y + 2],
      [x + width - 2, y + height - 2],
      [x + 2, y + height - 2]
    ] as const)
      await page.mouse.move(px, py)
    await page.mouse.up()
    assert.match((await texts('#list-text')).join(), /3\d images inside the lasso/)
    assert.ok((await saved('selection')).length > 30)
  })
})

describe('images that are given', () => {
  /** What the page says of an image, with its arrays as lists. */
  const analyzed = async (file: string): Promise<PlainAnalysis> => {
    const bytes = readFileSync(file).toString('base64')
    return page.evaluate<PlainAnalysis>(
      `fetch('data:image/png;base64,${bytes}').then(r => r.blob()).then(blob => explore.analyze(blob)).then(({vector, classes, depth, regions}) => ({
        vector: [...vector], classes, depth: {...depth, metres: [...depth.metres]}, regions: {...regions, labels: [...regions.labels]}
      }))`
    )
  }
  const own = new Map<string, PlainAnalysis>()

  it('have the features that embed gives them', async () => {
    await page.click('#tab-try')
    const settings = {pool: 'cls', layers: 1, normalize: false, transform: {}} as const
    using embedder = await loadEmbedder('starter', {...settings, precision: 'fp32', toolVersion: 'test'})
    for await (const {ids, vectors} of embed(listImages(images), embedder, {batch: 1, workers: 0, onRejected: refuse})) {
      const analysis = await analyzed(ids[0]!)
      own.set(ids[0]!, analysis)
      assert.equal(analysis.vector.length, vectors.length)
      const alike = cosine(analysis.vector, vectors)
      assert.ok(alike > 0.999999, `${ids[0]}: cosine ${alike}`)
    }
    assert.equal(own.size, 2)
  })

  it('have the classes, the depth and the regions that predict gives them', async () => {
    for await (const {id, top} of classifyImages({...predicted, head: heads.classify, top: 5, workers: 0, toolVersion: 'test'}))
      for (const [i, {class: name, probability}] of top.entries()) {
        const {classes} = own.get(id)!
        assert.equal(classes[i]!.name, name)
        assert.ok(Math.abs(classes[i]!.probability - probability) < 1e-4)
      }
    for await (const {ref, depth} of predictEach({...predicted, head: heads.depth, flip: false})) {
      const {metres} = own.get(ref.id)!.depth
      assert.equal(metres.length, depth.length)
      const most = depth.reduce((worst, value, i) => Math.max(worst, Math.abs(value - metres[i]!)), 0)
      assert.ok(most < 1e-3, `${ref.id}: ${most} m apart`)
      assert.ok(Math.max(...depth) - Math.min(...depth) > 0.05)
    }
    for await (const event of segmentImages({...predicted, head: heads.segment})) {
      if (event.kind !== 'image') continue
      const {labels, width, height} = own.get(event.ref.id)!.regions
      const expected = event.prediction.labels
      assert.deepEqual([width, height, labels.length], [event.prediction.width, event.prediction.height, expected.length])
      const apart = expected.reduce((sum, label, i) => sum + Number(label !== labels[i]), 0)
      assert.ok(apart <= 0.002 * labels.length, `${apart} of ${labels.length} pixels differ`)
      assert.ok(new Set(expected).size > 1)
    }
  })

  /** What a page says of its model whose worker runs `before` first. */
  const modelText = async (before: string, asked: string): Promise<string> => {
    const other = await browser.newPage()
    const body = before + readFileSync(join(dir, 'site/compute.js'), 'utf8')
    const headers = {'Content-Type': 'text/javascript', 'Cross-Origin-Embedder-Policy': 'require-corp'}
    await other.route('**/compute.js', route => route.fulfill({headers, body}))
    await other.goto(`${url}?${asked}#try`)
    await until(`/runs in this page/.test(document.getElementById('try-model').textContent)`, other)
    const text = (await other.locator('#try-model').textContent())!
    await other.close()
    return text
  }

  it('are computed by several threads where the server and the cores allow it, as the page says', async () => {
    assert.equal(await page.evaluate('crossOriginIsolated'), true)
    const cores = `Object.defineProperty(navigator, 'hardwareConcurrency', {value: 4});`
    assert.match(await modelText(cores, 'backend=wasm&threads=2'), /runs in this page by WebAssembly, on 2 threads .* cosine 1\.0000/)
  })

  it('are computed by WebAssembly where WebGPU fails, with a sentence that says why', async () => {
    const adapter = `{features: new Set(), limits: {}, info: {}, requestDevice: () => Promise.reject(new Error('there is no device'))}`
    const gpu = `Object.defineProperty(navigator, 'gpu', {value: {requestAdapter: () => Promise.resolve(${adapter})}});`
    assert.match(
      await modelText(gpu, 'threads=1'),
      /WebAssembly, on one thread .* cosine 1\.0000.*WebGPU of this browser does not work \(.+\), so WebAssembly is used\.$/
    )
  })

  it('show their parts and neighbours, dropped or from a file', async () => {
    await page.setInputFiles('#try-file', join(dir, 'photos/three/004.png'))
    await page.waitForSelector('#try-neighbours')
    assert.match((await page.locator('#try-neighbours .thumb').first().getAttribute('aria-label'))!, /photos\/three\/004\.png.*, 100 %/)
    assert.match((await texts('#try-classes > div')).join('|'), /^(cat|dog|fox) \d+\.\d %(\|(cat|dog|fox) \d+\.\d %){2}$/)
    assert.match((await texts('#try-depth')).join(), /near \d\.\d\d m.*far \d\.\d\d m/)
    assert.match((await texts('#try-regions')).join(), /(cat|dog|fox) \d+ %/)
    await page.locator('#try-depth canvas').hover()
    assert.match((await texts('#try-depth .reading')).join(), /^Here: \d\.\d\d m\.$/)
    await page.locator('#try-regions canvas').hover()
    assert.match((await texts('#try-regions .reading')).join(), /^Here: (cat|dog|fox)\.$/)
    const bytes = readFileSync(join(dir, 'photos/two/003.png')).toString('base64')
    await page.evaluate(`(async () => {
      const transfer = new DataTransfer()
      const blob = await (await fetch('data:image/png;base64,${bytes}')).blob()
      transfer.items.add(new File([blob], 'two.png', {type: 'image/png'}))
      document.getElementById('try-drop').dispatchEvent(new DragEvent('drop', {dataTransfer: transfer}))
    })()`)
    await statusMatches('try-status', /^two\.png: computed here/)
    assert.match((await page.locator('#try-neighbours .thumb').first().getAttribute('aria-label'))!, /photos\/two\/003\.png/)
    await page.setInputFiles('#try-file', {name: 'no.png', mimeType: 'image/png', buffer: Buffer.from('nothing')})
    await statusMatches('try-status', /no\.png is not an image/)
  })

  it('are matched part by part', async () => {
    await page.click('#tab-match')
    await until(`${dataOf('lines', 'lines')} > 0`)
    await page.locator('#slot-0 canvas').click()
    await statusMatches('match-status', /cosine -?[01]\.\d{3} /)
    await page.keyboard.press('ArrowRight')
    assert.equal(await page.evaluate(dataOf('lines', 'lines')), 0)
  })
})

describe('the site', () => {
  it('asks for nothing beyond itself, and makes no errors', () => {
    assert.deepEqual(foreign, [])
    assert.deepEqual(complaints, [])
  })

  it('fits a narrow window', async () => {
    await page.setViewportSize({width: 400, height: 800})
    for (const tab of ['map', 'try', 'match']) {
      await page.click(`#tab-${tab}`)
      assert.equal(await page.evaluate('document.documentElement.scrollWidth'), 400, tab)
      // names of files and classes may be long and without a space
      const wide = `[...document.querySelectorAll('#${tab} p, #${tab} h2, #${tab} span')].filter(one => {
        const [text, shown] = [one.textContent, one.getBoundingClientRect().width > 0]
        if (!shown || one.children.length > 0) return false
        one.textContent = 'x'.repeat(200)
        const isWide = one.scrollWidth > 400 || one.getBoundingClientRect().right > 400
        one.textContent = text
        return isWide
      }).map(one => one.id || one.className || one.tagName)`
      assert.deepEqual(await page.evaluate(wide), [], tab)
    }
  })

  it('shows the map when it is opened from a disk', async () => {
    const other = await browser.newPage()
    await other.goto(pathToFileURL(join(dir, 'site/index.html')).href)
    await until(`${dataOf('points', 'seen')} === 38`, other)
    await other.click('#tab-try')
    assert.match((await other.locator('#try-model').textContent())!, /opened from a disk/)
    await other.close()
  })

  it('is served with its types, to this machine alone', async () => {
    const {status, headers} = await ask('/tfjs-backend-wasm-simd.wasm')
    assert.deepEqual([status, headers['content-type'], headers['cross-origin-embedder-policy']], [200, 'application/wasm', 'require-corp'])
    assert.equal((await ask('/../photos/one/000.png')).status, 404)
    assert.equal((await ask('/%2e%2e/photos/one/000.png')).status, 404)
    assert.equal((await ask('/', {host: 'elsewhere.example'})).status, 403)
  })

  it('ends at Ctrl-C, and is the same bytes when it is written again', async () => {
    program.child.kill('SIGINT')
    const {status} = await program.ended
    assert.equal(status, 130)
    const given = Object.values(heads).flatMap(head => ['--head', head])
    const again = await run(realBinary, ['explore', 'photos', '--model', 'starter', ...given, '-o', 'again', '-q'], {env, cwd: dir})
    assert.equal(again.status, 0, again.stderr)
    for (const name of ['data.js', 'pictures-0.jpg', 'vectors.bin', 'backbone.safetensors', 'depth.safetensors', 'regions.safetensors'])
      assert.ok(readFileSync(join(dir, 'site', name)).equals(readFileSync(join(dir, 'again', name))), name)
  })
})
