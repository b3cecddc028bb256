/**
 * The report of a depth evaluation as one page: scores, what they mean, and the best, typical and worst images of
 * every set with their depth in colours.
 */
import {html, page, table, type Markup} from '../../../render/html.js'
import type {DepthAlignment, DepthErrors} from '../../../metrics/depth.js'
import type {DepthExamples, DepthFeatures, DepthReport, DepthScore, DepthSetReport} from './report.js'
import {depthFigure, depthPicture, depthStyle} from './pictures.js'

const FEATURES: Readonly<Record<DepthFeatures, string>> = {
  model: 'model',
  mean: 'mean depth',
  'mean-map': 'mean depth of every place',
  pixels: 'colour and place',
  untrained: 'untrained model'
}

const ALIGNED: Readonly<Record<DepthAlignment, string>> = {
  none: 'as told, in metres',
  median: 'median scaled',
  depth: 'scale and shift fitted in depth',
  disparity: 'scale and shift fitted in disparity'
}

const KINDS = {val: 'Val', test: 'Test', 'out-of-domain': 'Out of domain'} as const

const rowOf = (score: DepthScore, name: string): (string | number)[] => {
  const {rmse, abs_rel, a1, a2, a3, log10, rmse_log, silog, sq_rel, intervals} = score
  const span = ([low, high]: readonly [number, number]): string => `${low.toFixed(3)}–${high.toFixed(3)}`
  return [
    name,
    rmse.toFixed(3),
    span(intervals.rmse),
    abs_rel.toFixed(3),
    a1.toFixed(3),
    a2.toFixed(3),
    a3.toFixed(3),
    log10.toFixed(3),
    rmse_log.toFixed(3),
    silog.toFixed(2),
    sq_rel.toFixed(3)
  ]
}

const HEAD = ['', 'RMSE (m)', '95 %', 'abs_rel', 'a1', 'a2', 'a3', 'log10', 'rmse_log', 'silog', 'sq_rel']

function scoresOf({scores}: DepthSetReport): Markup {
  const alignments = [...new Set(scores.map(({alignment}) => alignment))]
  return html`${alignments.map(
    alignment =>
      html`<h3>${ALIGNED[alignment]}</h3>
        ${table([HEAD, ...scores.filter(score => score.alignment === alignment).map(score => rowOf(score, FEATURES[score.features]))])}`
  )}`
}

const short = ({rmse, abs_rel, a1}: DepthErrors): string => `RMSE ${rmse.toFixed(3)} m, abs_rel ${abs_rel.toFixed(3)}, a1 ${a1.toFixed(3)}`

/** The page; `examples` are in the order of the report's sets. */
export async function depthPage(report: DepthReport, examples: readonly DepthExamples[]): Promise<string> {
  const sections: Markup[] = []
  for (const [i, set] of report.sets.entries()) {
    const groups: Markup[] = []
    for (const {title, shown} of examples[i]!.groups) {
      const figures: Markup[] = []
      for (const {id, errors, sample, depth} of shown) {
        const {photo, truth, width, height} = sample
        figures.push(await depthFigure(depthPicture({photo, depth, truth}, {width, height}, 360), `${id} · ${short(errors)}`))
      }
      groups.push(
        html`<h3>${title} by abs_rel</h3>
          ${figures}`
      )
    }
    sections.push(
      html`<h2>${KINDS[set.kind]}: ${set.name}</h2>
        <p>${set.images} images.</p>
        <ul>
          ${set.verdicts.map(verdict => html`<li>${verdict}</li>`)}
        </ul>
        ${scoresOf(set)} ${groups}`
    )
  }
  const {head, range, crop, size, flip, train} = report
  const made = head.trained
    ? `A linear head on blocks ${head.layers.join(', ')}, trained on ${head.trained.images} images in ${head.trained.steps} steps of ${head.trained.batch}.`
    : `The ${head.kind} head ${head.file ?? ''} on blocks ${head.layers.join(', ')}${train > 0 ? `; baselines from ${train} images` : ''}.`
  const body = html`<h1>Depth from frozen features</h1>
    <p>
      Model ${report.model}. ${made} Depth from ${range.min} to ${range.max} m; crop ${crop}; images
      ${size === null ? 'as they are' : `with a short side of ${size} pixels`};
      ${flip ? 'averaged with the mirrored image' : 'no averaging with the mirrored image'}; errors averaged over the pixels of an image,
      then over images. Intervals are by drawing images with replacement: neighbouring frames of one film are alike, so they are too narrow
      there.
    </p>
    ${sections}`
  return page({title: 'Depth from frozen features', body, style: depthStyle})
}
