/** The charts of a report: which metrics stand together, and one colour for each run in all of them. */
import {lossTerms} from '../loss/terms.js'
import type {MetricLine, RunFolder} from '../files/run/run-folder.js'
import {lineChart, type Series} from '../render/chart.js'
import type {Markup} from '../render/html.js'

const EVALUATION = /knn|top_?[15]|accuracy/i

/**
 * Charts in their order: a title, what the vertical axis shows, the names of metrics that belong there, and whether
 * zero is shown.
 */
const CHARTS: readonly {readonly title: string; readonly y: string; readonly names: RegExp; readonly fromZero?: boolean}[] = [
  {title: 'Total loss', y: 'loss', names: /(^|[._])total(_loss)?$/},
  ...lossTerms.map(({name, title, unit}) => ({
    title,
    y: unit === '1' ? 'loss' : `loss (${unit})`,
    names: new RegExp(`(^|[._])${name}(_loss)?$`)
  })),
  {title: 'Other losses', y: 'loss', names: /(^|[._])loss(es)?([._]|$)|_loss$/},
  {title: 'Evaluation', y: 'share', names: EVALUATION},
  {title: 'Entropy of the teacher', y: 'entropy (nats)', names: /entropy/i},
  {title: 'Mean cosine between class tokens of different images', y: 'cosine', names: /cosine/i},
  {title: 'Effective rank of the features', y: 'share of the largest', names: /feature_rank/, fromZero: true},
  {title: 'Spread of images over prototypes', y: 'share of an even one', names: /prototype_use/, fromZero: true},
  {title: 'Gradient norm before clipping', y: 'norm', names: /grad/i, fromZero: true},
  {title: 'Learning rate', y: 'learning rate', names: /(^|[._])(last_layer_)?lr$|lastLayerLr/, fromZero: true},
  {title: 'Weight decay', y: 'weight decay', names: /(^|[._])(wd|weight_decay)$/, fromZero: true},
  {title: 'Momentum of the teacher', y: 'momentum', names: /momentum/},
  {title: 'Temperature of the teacher', y: 'temperature', names: /temp/, fromZero: true},
  {title: 'Images a second', y: 'images a second', names: /images_per_second|throughput/, fromZero: true},
  {title: 'Share of time lost waiting for data', y: 'share of time', names: /data_wait|waiting/, fromZero: true},
  {title: 'Memory (MiB): of the process, and its parts at the peak', y: 'MiB', names: /rss_mib|^memory_/, fromZero: true}
]

/** Counts and times that no chart shows. */
const PASSED_OVER = /(^|[._])(seconds|time|eta|epoch|images|masked(_patches)?)$/

export const points = (lines: readonly MetricLine[], name: string): [number, number][] =>
  lines.flatMap(({step, values}) => (values.has(name) ? [[step, values.get(name)!] as [number, number]] : []))

/** All metric names of a run, in the order of their first appearance. */
export const namesOf = (lines: readonly MetricLine[]): string[] => [...new Set(lines.flatMap(({values}) => [...values.keys()]))]

export const isLoss = (name: string): boolean => CHARTS.slice(0, lossTerms.length + 2).some(({names}) => names.test(name))

export const isTotalLoss = (name: string): boolean => CHARTS[0]!.names.test(name)
export const isEvaluation = (name: string): boolean => EVALUATION.test(name) && !/loss/.test(name)

/**
 * The curves of one chart. A run has the same colour in all charts; its metrics in one chart differ by their dashes.
 */
function seriesOf(runs: readonly RunFolder[], names: readonly string[]): Series[] {
  const several = runs.length > 1
  return runs.flatMap(({name: run, lines}, r) =>
    names.flatMap((name, n): Series[] => {
      const curve = points(lines, name)
      const words = [...(several ? [run] : []), ...(names.length > 1 || !several ? [name.replace(/^losses?\./, '')] : [])]
      return curve.length > 0 ? [{name: words.join(' '), points: curve, color: several ? r : n, dash: several ? n : 0}] : []
    })
  )
}

/** Whether a loss is 0 on every line of every run, as that of a term whose weight is 0. */
const isLeftOut = (runs: readonly RunFolder[], name: string): boolean =>
  isLoss(name) && runs.every(({lines}) => lines.every(({values}) => (values.get(name) ?? 0) === 0))

/** A chart of every group of metrics that a run has recorded, but for losses that were left out of training. */
export function metricCharts(runs: readonly RunFolder[]): Markup[] {
  const taken = new Set<string>()
  const all = [...new Set(runs.flatMap(({lines}) => namesOf(lines)))].filter(name => !PASSED_OVER.test(name) && !isLeftOut(runs, name))
  const charts: Markup[] = []
  const draw = (title: string, y: string, names: readonly string[], fromZero = false): void => {
    if (names.length === 0) return
    for (const name of names) taken.add(name)
    charts.push(lineChart({title, y, series: seriesOf(runs, names), fromZero}))
  }
  for (const {title, y, names, fromZero} of CHARTS)
    draw(
      title,
      y,
      all.filter(name => !taken.has(name) && names.test(name)),
      fromZero
    )
  for (const name of all.filter(name => !taken.has(name))) draw(name, 'value', [name])
  return charts
}
