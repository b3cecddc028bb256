/**
 * The page of a linear evaluation: scores, paired differences, the confusion matrix, and images that were classified
 * correctly and wrongly.
 */
import {lineChart} from '../../../render/chart.js'
import {confusionTable, evalPage} from '../../../render/eval-page.js'
import {html} from '../../../render/html.js'
import type {EvalPageText, Table} from '../shared/evaluation.js'
import {exampleSections} from '../shared/example-images.js'
import {figures, pageTables, percent, words} from '../shared/tables.js'
import type {ThumbnailOptions} from '../shared/thumbnails.js'
import type {LinearReport} from './linear-report.js'
import {linearHeading, linearSummary} from './linear-summary.js'

const classTable = ({perClass}: LinearReport): Table => ({
  title: 'Classes',
  note: 'Share of the images of each class that were classified correctly, the hardest first.',
  columns: [words('class'), figures('top-1 %')],
  rows: Object.entries(perClass)
    .filter((row): row is [string, number] => row[1] !== null)
    .sort((a, b) => a[1] - b[1])
    .map(([name, share]) => [name, percent(share)])
})

/** How the classifier was chosen. */
const choiceOf = ({solver, cached, grid}: LinearReport): string =>
  solver === 'lbfgs'
    ? 'Logistic regression on the last cls token; C chosen on a tenth of train.'
    : grid.length > 0
      ? `The best of ${grid.length} classifiers on val, trained on ${cached ? 'features computed once' : 'random crops'}.`
      : ''

/** The page. Images that cannot be opened are left out and counted. */
export async function linearPage(report: LinearReport, options: ThumbnailOptions = {}): Promise<EvalPageText> {
  const {classes, confusion, grid, examples, solver, notes} = report
  const {sections, missing} = await exampleSections(examples, options)
  const features = [...new Set(grid.map(row => row.features))]
  const content = evalPage({
    title: 'Linear classification on frozen features',
    lead: [`${linearHeading(report)}. ${choiceOf(report)}`, ...notes],
    tables: pageTables([...linearSummary(report).tables, classTable(report)]),
    charts:
      grid.length === 0
        ? []
        : [
            lineChart({
              title: 'Accuracy on val of every classifier (%)',
              x: solver === 'lbfgs' ? 'log10 of C' : 'log10 of the learning rate',
              series: features.map(name => ({
                name,
                points: grid.filter(row => row.features === name).map(({rate, top1}) => [Math.log10(rate), 100 * top1] as const)
              }))
            })
          ],
    more:
      classes.length <= 100 &&
      html`<h2>Confusion</h2>
        <p class="quiet">Rows are the true classes.</p>
        ${confusionTable(classes, confusion.flat())}`,
    pictures: sections
  })
  return {content, missing}
}
