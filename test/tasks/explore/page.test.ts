/**
 * The site of `explore` in a real browser: features are those of `embed`, the map answers clicks, keys and the lasso,
 * lists are taken by other commands, images that are given are computed, and no request leaves the site.
 */
import assert from 'node:assert/strict'
import {readFileSync} from 'node:fs'
import {mkdir, writeFile} from 'node:fs/promises'
import {get} from 'node:http'
import {join} from 'node:path'
import {after, before, describe, it} from 'node:test'
import {setTimeout as wait} from 'node:timers/promises'
import {pathToFileURL} from 'node:url'
import type {Browser, Page} from 'playwright-core'
import {vectorCosine as cosine} from '../../../src/page/similarity.js'
import {startBrowser} from '../../support/browser.js'
import {drawnFolder, drawnImage} from '../../support/drawn-images.js'
import {folder, realBinary, run, start} from '../../support/program.js'

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
const model = ['--model', 'starter', '--head', 'classes.safetensors']
const env = {DINOV2_ENGINE: 'wasm', DINOV2_WORKERS: '0'}
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
  const few = ['--cached', '--steps', '40', '--baseline', 'none', '--head-out', 'classes.safetensors', '-q']
  const trained = await run(realBinary, ['linear-eval', '--train', 'photos', '--val', 'photos', '--model', 'starter', ...few], {
    env,
    cwd: dir
  })
  assert.equal(trained.status, 0, trained.stderr)
  program = start(realBinary, ['explore', 'photos', ...model, '-o', 'site', '--serve'], {env, cwd: dir, input: null})
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

  it('saves lists that other commands take', async () => {
    const saved = async (name: string): Promise<Record<string, unknown>[]> => {
      await page.selectOption('#list', name)
      const [download] = await Promise.all([page.waitForEvent('download'), page.click('#save')])
      assert.equal(download.suggestedFilename(), `${name}.jsonl`)
      await download.saveAs(join(dir, `${name}.jsonl`))
      return readFileSync(join(dir, `${name}.jsonl`), 'utf8')
        .split('\n')
        .filter(Boolean)
        .map(line => JSON.parse(line) as Record<string, unknown>)
    }
    const copies = await saved('duplicates')
    assert.ok(copies.some(({id, similar_to}) => id === 'photos/one/copy.png' && similar_to === 'photos/one/000.png'))
    const doubtful = await saved('doubtful')
    assert.ok(doubtful.some(({id, neighbours_label}) => id === 'photos/two/strange.png' && neighbours_label === 'one'))
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
  })
})

describe('images that are given', () => {
  it('have the features that embed gives them', async () => {
    const {status, stdout} = await run(realBinary, ['embed', 'queries', '--model', 'starter', '--format', 'jsonl'], {env, cwd: dir})
    assert.equal(status, 0)
    const rows = stdout
      .trim()
      .split('\n')
      .map(line => JSON.parse(line) as {id: string; vector: number[]})
    await page.click('#tab-try')
    for (const {id, vector} of rows) {
      const bytes = readFileSync(join(dir, id)).toString('base64')
      const own = await page.evaluate<number[]>(
        `fetch('data:image/png;base64,${bytes}').then(r => r.blob()).then(blob => explore.analyze(blob)).then(({vector}) => [...vector])`
      )
      assert.equal(own.length, vector.length)
      assert.ok(cosine(own, vector) > 0.999999, `${id}: cosine ${cosine(own, vector)}`)
    }
    assert.match((await texts('#try-model')).join(), /runs in this page by WebAssembly .* cosine 1\.0000/)
  })

  it('show their parts and neighbours, dropped or from a file', async () => {
    await page.setInputFiles('#try-file', join(dir, 'photos/three/004.png'))
    await page.waitForSelector('#try-neighbours')
    assert.match((await page.locator('#try-neighbours .thumb').first().getAttribute('aria-label'))!, /photos\/three\/004\.png.*, 100 %/)
    const bytes = readFileSync(join(dir, 'photos/two/003.png')).toString('base64')
    const told = await run(realBinary, ['predict', 'classify', 'photos/three/004.png', ...model], {env, cwd: dir})
    const {top} = JSON.parse(told.stdout) as {top: {class: string; probability: number}[]}
    assert.deepEqual(
      await texts('#try-classes > div'),
      top.map(({class: name, probability}) => `${name} ${(100 * probability).toFixed(1)} %`)
    )
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
    await statusMatches('match-status', /cosine 0\.\d+/)
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
    const again = await run(realBinary, ['explore', 'photos', ...model, '-o', 'again', '-q'], {env, cwd: dir})
    assert.equal(again.status, 0, again.stderr)
    for (const name of ['data.js', 'pictures-0.jpg', 'vectors.bin', 'backbone.safetensors'])
      assert.ok(readFileSync(join(dir, 'site', name)).equals(readFileSync(join(dir, 'again', name))), name)
  })
})
