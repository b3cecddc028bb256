/**
 * The page of a linear evaluation: scores, what the model is compared with, the confusion matrix, and pictures it is
 * right and wrong about.
 */
import {confusionTable, evalPage} from '../../../render/eval-page.js'
import {lineChart} from '../../../render/chart.js'
import {html} from '../../../render/html.js'
import {caseSections} from '../shared/example-images.js'
import type {LinearReport} from './linear.js'
import type {ThumbnailOptions} from '../shared/thumbnails.js'

const percent = (share: number): string => (100 * share).toFixed(1)
const signed = (share: number): string => `${share < 0 ? '−' : '+'}${percent(Math.abs(share))}`
const names: Readonly<Record<string, string>> = {majority: 'the largest class', pixels: 'raw pixels', untrained: 'the untrained model'}

/** The page as text. Pictures that cannot be opened are left out. */
export async function linearPage(report: LinearReport, options: ThumbnailOptions = {}): Promise<string> {
  const {scores, gains, classes, perClass, confusion, grid, cases, train, val, solver, cached} = report
  const features = [...new Set(grid.map(row => row.features))]
  const named = Object.entries(perClass)
    .filter((row): row is [string, number] => row[1] !== null)
    .sort((a, b) => a[1] - b[1])
  return evalPage({
    title: 'Linear classification on frozen features',
    lead: [
      `${val} images scored, ${train} to train on, ${classes.length} classes. ` +
        (solver === 'lbfgs'
          ? 'Logistic regression on the last cls token; C chosen on a tenth of train.'
          : `The best of ${grid.length} classifiers on val${cached ? ', trained on features computed once' : ', trained on random crops'}.`),
      ...gains.map(
        ({of, over, set, words, mean, interval: [low, high]}) =>
          `${of} ${words} ${names[over] ?? over} on ${set}: ${signed(mean)} points of top-1 (95 % of draws between ${signed(low)} and ${signed(high)}).`
      )
    ],
    tables: [
      {
        title: 'Scores',
        note: 'Intervals of 95 % by drawing the scored images with replacement.',
        rows: [
          ['features', 'set', 'images', 'top-1 %', '95 %', 'top-5 %', 'chosen'],
          ...scores.map(({name, set, images, top1, top1Interval: [low, high], top5, chosen}) => [
            name,
            set,
            images,
            percent(top1),
            `${percent(low)}–${percent(high)}`,
            percent(top5),
            chosen
          ])
        ]
      },
      {
        title: 'Classes',
        note: 'Share of the images of each class that were named rightly, the hardest first.',
        rows: [['class', 'top-1 %'], ...named.map(([name, share]) => [name, percent(share)])]
      }
    ],
    charts:
      grid.length === 0
        ? []
        : [
            lineChart({
              title: 'Accuracy on val of every classifier',
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
    pictures: await caseSections(cases, options)
  })
}
