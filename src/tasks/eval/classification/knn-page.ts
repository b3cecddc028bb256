/**
 * The page of a kNN evaluation: scores by k, paired differences, the confusion matrix, and images that were classified
 * correctly and wrongly.
 */
import {lineChart} from '../../../render/chart.js'
import {confusionTable, evalPage} from '../../../render/eval-page.js'
import {html} from '../../../render/html.js'
import type {EvalPageText, Table} from '../shared/evaluation.js'
import {exampleSections} from '../shared/example-images.js'
import {candidateTitle, figures, pageTables, percent, words} from '../shared/tables.js'
import type {ThumbnailOptions} from '../shared/thumbnails.js'
import type {KnnReport} from './knn-report.js'
import {knnHeading, knnSummary} from './knn-summary.js'

/** The share of right images of every class, the hardest first. */
function classTable({perClass, confusion}: KnnReport): Table[] {
  const k = confusion?.k
  const rows = Object.entries(perClass)
    .filter(([, {images}]) => images > 0)
    .map(([name, {images, top1}]) => ({name, images, share: top1[String(k)] ?? NaN}))
    .sort((a, b) => a.share - b.share)
  if (rows.length === 0) return []
  return [
    {
      title: 'Classes',
      note: `Share of the images of each class that were classified correctly at k ${k}, the hardest first.`,
      columns: [words('class'), figures('images'), figures('top-1 %')],
      rows: rows.map(({name, images, share}) => [name, String(images), percent(share)])
    }
  ]
}

/** The page. Images that cannot be opened are left out and counted. */
export async function knnPage(report: KnnReport, options: ThumbnailOptions = {}): Promise<EvalPageText> {
  const {temperature, scores, sets, confusion, examples, notes} = report
  const {sections, missing} = examples ? await exampleSections(examples, options) : {sections: [], missing: 0}
  const curve = scores.filter(({perClass, k, set}) => perClass === null && k !== null && set === sets[0]!.name)
  const content = evalPage({
    title: 'Classification by nearest neighbours',
    lead: [
      `${knnHeading(report)}. Nothing is trained: the k nearest by cosine vote with weights exp(similarity / ${temperature}).`,
      ...notes
    ],
    tables: pageTables([...knnSummary(report).tables, ...classTable(report)]),
    charts:
      new Set(curve.map(({k}) => k)).size > 1
        ? [
            lineChart({
              title: 'Top-1 by k',
              y: 'top-1 (%)',
              x: 'k',
              series: [...new Set(curve.map(({features}) => features))].map(features => ({
                name: candidateTitle(features),
                points: curve.filter(score => score.features === features).map(({k, top1}) => [k!, 100 * top1] as const)
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
    pictures: sections
  })
  return {content, missing}
}
