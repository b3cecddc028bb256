/** The browser of tests: a Chromium of this machine, driven by playwright-core. */
import {existsSync} from 'node:fs'
import {delimiter, join} from 'node:path'
import {chromium, type Browser} from 'playwright-core'

const names = ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable', 'chrome']

/** Where the browser lies: what DINOV2_TEST_BROWSER names, else the first on the path. Throws a sentence if none. */
function browserPath(): string {
  const named = process.env['DINOV2_TEST_BROWSER']
  const places = (process.env['PATH'] ?? '').split(delimiter).flatMap(folder => names.map(name => join(folder, name)))
  const found = [...(named ? [named] : []), ...places].find(path => existsSync(path))
  if (!found)
    throw new Error(
      'No Chromium was found on the path, and the page of `explore` is tested in one. Install it (Debian: apt-get install chromium), or name a Chrome in DINOV2_TEST_BROWSER.'
    )
  return found
}

/** Starts it without a window; the sandbox needs rights that containers lack, and the pages are ours. */
export const startBrowser = (): Promise<Browser> => chromium.launch({executablePath: browserPath(), args: ['--no-sandbox']})
