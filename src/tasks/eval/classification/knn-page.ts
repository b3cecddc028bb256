/**
 * The page of a kNN evaluation: scores by k, what the model is compared with, the confusion matrix, and pictures it is
 * right and wrong about.
 */
import {lineChart} from '../../../render/chart.js'
import {confusionTable, evalPage} from '../../../render/eval-page.js'
import {html} from '../../../render/html.js'
import {comparison} from '../../../metrics/intervals.js'
import {caseSections} from '../shared/example-images.js'
import type {KnnReport} from './knn.js'
import type {ThumbnailOptions} from '../shared/thumbnails.js'

const percent = (share: number): string => (100 * share).toFixed(1)
const signed = (share: number): string => `${share < 0 ? '−' : '+'}${percent(Math.abs(share))}`
const names: Readonly<Record<string, string>> = {
  model: 'model',
  majority: 'largest class',
  pixels: 'raw pixels',
  untrained: 'untrained model'
}

/** The page as text. Pictures that cannot be opened are left out. */
export async function knnPage(report: KnnReport, options: ThumbnailOptions = {}): Promise<string> {
  const {train, val, classes, leaveOneOut, temperature, scores, gains, perClass, confusion, cases, notes} = report
  const limited = scores.some(score => score.perClass !== null)
  const full = scores.filter(score => score.perClass === null && score.k > 0)
  const k = confusion?.k
  const hardest = Object.entries(perClass)
    .filter(([, {images}]) => images > 0)
    .map(([name, {images, top1}]) => [name, images, top1[String(k)] ?? NaN] as const)
    .sort((a, b) => a[2] - b[2])
  return evalPage({
    title: 'Classification by nearest neighbours',
    lead: [
      `${leaveOneOut ? `${train} images, each classified by the others` : `${val} images classified by ${train}`}; ${classes} classes. Nothing is trained: the k nearest by cosine vote with weights exp(similarity / ${temperature}).`,
      ...gains.map(
        ({over, k: at, top1, interval: [low, high]}) =>
          `At k ${at} the model ${comparison({mean: top1, interval: [low, high]})} ${over === 'pixels' ? '' : 'the '}${names[over]!}: ${signed(top1)} points of top-1 (95 % of draws between ${signed(low)} and ${signed(high)}).`
      ),
      ...notes
    ],
    tables: [
      {
        title: 'Scores',
        note: 'Intervals of 95 % by drawing the classified images with replacement.',
        rows: [
          ['features', ...(limited ? ['train images of a class'] : []), 'k', 'top-1 %', '95 %', 'top-5 %'],
          ...scores.map(({features, perClass: some, k: at, top1, top1Interval: [low, high], top5}) => [
            names[features]!,
            ...(limited ? [some === null ? 'all' : String(some)] : []),
            at === 0 ? '' : String(at),
            percent(top1),
            `${percent(low)}–${percent(high)}`,
            percent(top5)
          ])
        ]
      },
      ...(hardest.length > 0
        ? [
            {
              title: 'Classes',
              note: `Share of the images of each class that were named rightly at k ${k}, the hardest first.`,
              rows: [['class', 'images', 'top-1 %'], ...hardest.map(([name, images, share]) => [name, images, percent(share)])]
            }
          ]
        : [])
    ],
    charts:
      new Set(full.map(score => score.k)).size > 1
        ? [
            lineChart({
              title: 'Top-1 (%) by k',
              x: 'k',
              series: [...new Set(full.map(({features}) => features))].map(features => ({
                name: names[features]!,
                points: full.filter(score => score.features === features).map(score => [score.k, 100 * score.top1] as const)
              }))
            })
          ]
        : [],
    more:
      confusion &&
      confusion.classes.length <= 100 &&
      html`<h2>Confusion</h2>
        <p class="quiet">Rows are the true classes; k ${confusion.k}, which scored highest.</p>
        ${confusionTable(confusion.classes, confusion.counts.flat())}`,
    pictures: cases ? await caseSections(cases, options) : []
  })
}
