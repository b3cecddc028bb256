/** Reporting: run folders become one page of loss curves, schedules, health in words, evaluations and settings. */
import {counted} from '../config/counted.js'
import {html, page, table, type Content, type Markup} from '../render/html.js'
import {readRun, type RunFolder} from '../files/run/run-folder.js'
import {isLoss, metricCharts, namesOf, points} from './report-charts.js'
import {findings, type Finding} from './report-findings.js'

export type RunReport = {
  readonly run: string
  readonly steps: number
  readonly losses: Readonly<Record<string, {readonly first: number; readonly last: number; readonly lowest: number}>>
  readonly health: readonly Finding[]
}

export type ReportOptions = {
  readonly runs: readonly string[]
  readonly title?: string
  /** Settings of a `config.yaml` by dotted path; what it throws leaves the text to speak for itself. */
  readonly readSettings: (path: string) => ReadonlyMap<string, unknown>
}

/** A value of JSON as a table where it is one, else as a list of its plain fields. */
function shown(value: unknown): Markup {
  if (Array.isArray(value) && value.length > 0 && value.every(row => typeof row === 'object' && row !== null && !Array.isArray(row))) {
    const keys = [...new Set(value.flatMap(row => Object.keys(row as object)))]
    return table([keys, ...value.map(row => keys.map(key => plain((row as Record<string, unknown>)[key])))])
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) {
    const entries = Object.entries(value)
    const flat = entries.filter(([, child]) => typeof child !== 'object' || child === null)
    const deep = entries.filter(([, child]) => typeof child === 'object' && child !== null)
    return html`${flat.length > 0 && table([['', ''], ...flat.map(([key, child]) => [key, plain(child)])])}
    ${deep.map(
      ([key, child]) =>
        html`<h4>${key}</h4>
          ${shown(child)}`
    )}`
  }
  return html`<p>${Array.isArray(value) ? value.map(item => String(plain(item))).join(', ') : plain(value)}</p>`
}

const plain = (value: unknown): string | number =>
  typeof value === 'number'
    ? Number(value.toPrecision(6))
    : value === undefined || value === null
      ? ''
      : typeof value === 'object'
        ? JSON.stringify(value)
        : String(value)

/** Settings in which the runs differ, as a table; nothing for one run. */
function differences(runs: readonly RunFolder[], settings: readonly ReadonlyMap<string, unknown>[]): Markup | undefined {
  if (runs.length < 2) return undefined
  const paths = [...new Set(settings.flatMap(map => [...map.keys()]))].sort()
  const text = (map: ReadonlyMap<string, unknown>, path: string): string => (map.has(path) ? JSON.stringify(map.get(path)) : '–')
  const differing = paths.filter(path => new Set(settings.map(map => text(map, path))).size > 1)
  if (differing.length === 0) return html`<p class="quiet">All runs have the same settings.</p>`
  return table([['setting', ...runs.map(({name}) => name)], ...differing.map(path => [path, ...settings.map(map => text(map, path))])])
}

/** Reads the runs and makes the page. Throws as `readRun`. */
export async function reportRuns({runs: paths, title, readSettings}: ReportOptions): Promise<{page: string; runs: RunReport[]}> {
  const runs: RunFolder[] = []
  for (const path of paths) runs.push(await readRun(path))
  const settings = runs.map(({path, config}) => {
    if (config === undefined) return new Map<string, unknown>()
    try {
      return readSettings(`${path}/config.yaml`)
    } catch {
      return new Map<string, unknown>() // of another version of the program: its text is shown all the same
    }
  })
  const reports = runs.map(({name, lines, notFinite}, i): RunReport => {
    const losses = namesOf(lines).filter(isLoss)
    return {
      run: name,
      steps: lines.at(-1)?.step ?? 0,
      losses: Object.fromEntries(
        losses.map(loss => {
          const values = points(lines, loss).map(([, y]) => y)
          return [loss, {first: values[0]!, last: values.at(-1)!, lowest: Math.min(...values)}]
        })
      ),
      health: findings(lines, settings[i]!, notFinite)
    }
  })

  const charts = metricCharts(runs)
  const heading =
    title ?? (runs.length === 1 ? `Training run ${runs[0]!.name}` : `${runs.length} runs: ${runs.map(({name}) => name).join(', ')}`)
  const health = runs.map(
    ({name, broken, lines}, i) =>
      html`${runs.length > 1 && html`<h3>${name}</h3>`}
        <ul class="findings">
          ${reports[i]!.health.map(({good, text}) => html`<li><span class="${good ? 'good' : 'bad'}">${good ? '✓' : '!'}</span> ${text}</li>`)}
          <li class="quiet">
            ${counted(lines.length, 'line')} of metrics up to step ${reports[i]!.steps}${broken > 0 && `; ${broken} could not be read`}.
          </li>
        </ul>`
  )
  const results = runs.flatMap(({name, results: files}) =>
    files.map(
      ({file, value}) =>
        html`<h3>${runs.length > 1 && `${name}: `}${file}</h3>
          ${shown(value)}`
    )
  )
  const body: Content = [
    html`<h1>${heading}</h1>`,
    html`<h2>Health</h2>
      ${health}`,
    charts.length > 0 &&
      html`<h2>Curves</h2>
        <div class="grid">${charts}</div>`,
    results.length > 0 &&
      html`<h2>Evaluations</h2>
        ${results}`,
    html`<h2>Settings</h2>
      ${differences(runs, settings)}`,
    runs.map(({name, config}) =>
      config === undefined
        ? html`<p class="quiet">${name} holds no config.yaml.</p>`
        : html`<details${runs.length === 1 && html` open`}><summary>${name}/config.yaml</summary><pre>${config}</pre></details>`
    )
  ]
  return {page: page({title: heading, body}), runs: reports}
}
