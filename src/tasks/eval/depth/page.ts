/**
 * The report of a depth evaluation as one page: tables, and the best, typical and worst images of every set with their
 * depth in colours.
 */
import {counted} from '../../../config/counted.js'
import {evalPage} from '../../../render/eval-page.js'
import {html, type Markup} from '../../../render/html.js'
import type {DepthErrors} from '../../../metrics/depth.js'
import {pageTables} from '../shared/tables.js'
import {depthFigure, depthPicture, depthStyle} from './pictures.js'
import {depthSummary, type DepthExamples, type DepthReport} from './report.js'

const short = ({rmse, abs_rel, a1}: DepthErrors): string =>
  `RMSE ${rmse.toFixed(3)} m, abs_rel ${abs_rel.toFixed(3)}, a1 ${(100 * a1).toFixed(1)} %`

/** The page; `examples` are in the order of the report's sets. */
export async function depthPage(report: DepthReport, examples: readonly DepthExamples[]): Promise<string> {
  const sections: Markup[] = []
  for (const {set, groups} of examples) {
    sections.push(html`<h2>Images of ${set}, by abs_rel</h2>`)
    for (const {title, shown} of groups) {
      const figures: Markup[] = []
      for (const {id, errors, sample, depth} of shown) {
        const {photo, truth, width, height} = sample
        figures.push(await depthFigure(depthPicture({photo, depth, truth}, {width, height}, 360), id, short(errors)))
      }
      sections.push(
        html`<h3>${title}</h3>
          ${figures}`
      )
    }
  }
  const {head, range, crop, size, flip, train, sets} = report
  const made = head.trained
    ? `A linear head on blocks ${head.layers.join(', ')}, trained on ${counted(head.trained.images, 'image')} in ${counted(head.trained.steps, 'step')} of ${head.trained.batch}.`
    : `The ${head.kind} head ${head.file ?? ''} on blocks ${head.layers.join(', ')}${train > 0 ? `; baselines from ${counted(train, 'image')}` : ''}.`
  return evalPage({
    title: 'Depth from frozen features',
    lead: [
      `Model ${report.model}. ${made}`,
      `${sets.map(({name, images, inputs}) => `${name}: ${counted(images, 'image')} of ${inputs.join(', ')}`).join('; ')}.`,
      `Depth from ${range.min} to ${range.max} m; crop ${crop}; images ${size === null ? 'as they are' : `with a short side of ${size} pixels`}; ${flip ? 'averaged with the mirrored image' : 'not averaged with the mirrored image'}. Errors are averaged over the pixels of an image, then over images. Intervals are 95 % bootstrap intervals over images; neighbouring frames of one film are alike, so intervals are too narrow there.`
    ],
    tables: pageTables(depthSummary(report).tables),
    more: html`<style>
        ${depthStyle}
      </style>
      ${sections}`
  })
}
