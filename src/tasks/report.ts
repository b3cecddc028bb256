/** Reporting: run folders become one page of loss curves, schedules, health in words, evaluations and settings. */
import {counted} from '../config/counted.js'
import {short} from '../render/chart.js'
import {html, page, table, type Content, type Markup} from '../render/html.js'
import {readRun, type MetricLine, type RunFolder} from '../files/run/run-folder.js'
import {isEvaluation, isLoss, isTotalLoss, metricCharts, namesOf, points} from './report-charts.js'
import {limits, healthChecks, improvementOf, type HealthMetrics, type HealthProblem} from './train/health.js'

export type Finding = {readonly good: boolean; readonly text: string}

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

const mean = (values: readonly number[]): number => values.reduce((sum, value) => sum + value, 0) / values.length
const median = (values: readonly number[]): number => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN

/** Values of the first and of the last tenth of a curve, at least one each. */
function ends(values: readonly number[]): {first: number; last: number; before: number} {
  const n = Math.max(1, Math.round(values.length / 10))
  return {
    first: mean(values.slice(0, n)),
    last: mean(values.slice(-n)),
    before: mean(values.slice(-2 * n, -n).length ? values.slice(-2 * n, -n) : values)
  }
}

/**
 * What can be said of a run from its metrics and settings. K is the number of prototypes: while the student
 * distinguishes nothing, its loss on class tokens is the weight of that loss times ln K, and a teacher that spreads evenly has
 * an entropy of ln K.
 */
export function findings(lines: readonly MetricLine[], settings: ReadonlyMap<string, unknown>, notFinite?: unknown): Finding[] {
  const found: Finding[] = []
  const say = (good: boolean, text: string): void => void found.push({good, text})
  if (typeof notFinite === 'object' && notFinite !== null) {
    const {step, layer, terms} = notFinite as {step?: unknown; layer?: unknown; terms?: unknown}
    const what = Array.isArray(terms) ? `: ${terms.join(', ')}` : ''
    say(
      false,
      `Step ${String(step)} was not finite and stopped the run${what}${typeof layer === 'string' ? `; it began in ${layer}` : ''}.`
    )
  }
  if (lines.length === 0) return [...found, {good: false, text: 'No step was recorded.'}]
  const names = namesOf(lines)
  const number = (name: string): number | undefined => {
    const value = settings.get(name)
    return typeof value === 'number' ? value : undefined
  }

  const sick = lines.find(({values}) => [...values].some(([name, value]) => isLoss(name) && !Number.isFinite(value)))
  if (sick) say(false, `A loss was not finite at step ${sick.step}. Lower optim.base_lr, or look at the images of that step.`)

  const finite = (name: string | undefined): number[] =>
    name ? points(lines, name).flatMap(([, y]) => (Number.isFinite(y) ? [y] : [])) : []
  const total = finite(names.find(name => isTotalLoss(name)))
  if (total.length >= 4) {
    const {first, last, before} = ends(total)
    const fall = (first - last) / Math.abs(first || 1)
    if (fall > 0.01) say(true, `The total loss fell by ${(100 * fall).toFixed(1)} % (from ${short(first)} to ${short(last)}).`)
    else say(false, `The total loss hardly moved (from ${short(first)} to ${short(last)}). Train longer, or raise optim.base_lr.`)
    if (total.length >= 20 && last > before + 0.02 * Math.abs(before))
      say(false, `It rose towards the end (from ${short(before)} to ${short(last)}).`)
  }

  const prototypes = number('dino.head_n_prototypes')
  const weight = number('dino.loss_weight') ?? 1
  const lately = (wanted: RegExp): number | undefined => {
    const curve = finite(names.find(name => wanted.test(name)))
    return curve.length > 0 ? ends(curve).last : undefined
  }
  const [local, global] = [lately(/dino_local/), lately(/dino_global/)]
  const signs: HealthMetrics = {
    loss: global === undefined ? undefined : (local ?? 0) + global,
    entropy: lately(/entropy/i),
    cosine: lately(/cls_cosine/),
    rank: lately(/feature_rank/),
    use: lately(/prototype_use/),
    late: true
  }
  const batch = number('train.batch_size_per_gpu')
  const rows = settings.get('train.centering') === 'sinkhorn_knopp' && batch !== undefined ? 2 * batch : undefined
  const {cosine, rank, use} = signs
  const ill = healthChecks(prototypes === undefined ? {cosine, rank, use} : signs, {prototypes: prototypes ?? NaN, weight, rows})
  for (const {words} of ill) say(false, `${words[0]!.toUpperCase()}${words.slice(1)}.`)
  const free = (...causes: HealthProblem['cause'][]): boolean => !ill.some(({cause}) => causes.includes(cause))
  if (prototypes !== undefined && weight > 0 && signs.loss !== undefined && free('uniform', 'one prototype'))
    say(
      true,
      `The loss on class tokens is ${short(signs.loss)}; a student that distinguishes nothing would have ${short(weight * Math.log(prototypes))}.`
    )
  if (
    prototypes !== undefined &&
    signs.entropy !== undefined &&
    free('flat targets', 'sharp targets', 'warm targets', 'more prototypes than images')
  )
    say(
      true,
      `The entropy of the teacher's targets is ${((100 * signs.entropy) / Math.log(prototypes)).toFixed(0)} % of the largest possible.`
    )
  if (signs.cosine !== undefined && free('alike'))
    say(true, `Class tokens of different images have a mean cosine of ${signs.cosine.toFixed(2)}.`)
  if (signs.rank !== undefined && free('low rank'))
    say(true, `The effective rank of the features is ${(100 * signs.rank).toFixed(0)} % of the largest possible.`)

  for (const name of names.filter(name => /grad/i.test(name))) {
    const norms = finite(name)
    const [middle, largest] = [median(norms), Math.max(...norms.slice(Math.floor(norms.length / 10)))]
    if (norms.length >= 20 && largest > limits.burst * middle)
      say(false, `${name} once reached ${short(largest)}, ${Math.round(largest / middle)} times its usual size.`)
  }

  const speed = finite(names.find(name => /images_per_second/.test(name)))
  if (speed.length > 0) say(true, `${short(Number(median(speed).toPrecision(3)))} images a second (median).`)
  const waiting = finite(names.find(name => /data_wait/.test(name)))
  if (waiting.length > 0) {
    const share = mean(waiting)
    if (share > limits.waiting)
      say(
        false,
        `${(100 * share).toFixed(0)} % of the time was lost waiting for data. More train.workers, smaller files or a larger train.cache_mb would help.`
      )
    else say(true, `${(100 * share).toFixed(1)} % of the time was lost waiting for data.`)
  }

  const worth = improvementOf(lines)
  if (worth) say(!worth.fell, `${worth.words[0]!.toUpperCase()}${worth.words.slice(1)}.`)

  const scores = names.filter(name => isEvaluation(name))
  for (const name of scores) {
    const curve = finite(name)
    const best = Math.max(...curve)
    if (curve.length > 2 && curve.at(-1)! < best - 0.03 * Math.abs(best))
      say(false, `${name} ended at ${short(curve.at(-1)!)}, below its best of ${short(best)}.`)
  }
  return found
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
  const heading = title ?? (runs.length === 1 ? `Run ${runs[0]!.name}` : `${runs.length} runs: ${runs.map(({name}) => name).join(', ')}`)
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
