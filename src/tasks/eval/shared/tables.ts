/** Figures as text, and the tables that terminal and page share. */
import type {Interval} from '../../../metrics/intervals.js'
import type {EvalPage} from '../../../render/eval-page.js'
import type {TableColumn, EvalDifference, Table} from './evaluation.js'

export const words = (name: string): TableColumn => ({name, align: 'left'})
export const figures = (name: string): TableColumn => ({name, align: 'right'})

/** A share in per cent, without the sign; a dash where there is none. */
export const percent = (share: number | null): string => (share === null || Number.isNaN(share) ? '–' : (100 * share).toFixed(1))

/** A number with its sign, a true minus among them. */
const signed = (value: number, format: (value: number) => string = percent): string =>
  Number.isNaN(value) ? '–' : `${value < 0 ? '−' : '+'}${format(Math.abs(value))}`

export const span = ([low, high]: Interval, format: (value: number) => string = percent): string => `${format(low)}–${format(high)}`

/** Candidates as tables name them. */
const titles: Readonly<Record<string, string>> = {
  majority: 'most frequent class',
  pixels: 'raw pixels',
  histogram: 'colour histogram',
  untrained: 'untrained model',
  chance: 'random order',
  mean: 'mean depth',
  'mean-map': 'mean depth of each position'
}
export const candidateTitle = (features: string): string => titles[features] ?? features

export type DifferenceColumns<D extends EvalDifference> = {
  /** Columns between the set and the figure, e.g. k. */
  readonly variants?: readonly {readonly column: TableColumn; readonly of: (difference: D) => string}[]
  /** What a measure is called, with its unit, e.g. `top-1, points`. */
  readonly titles: Readonly<Record<string, string>>
  /** Figures as text; in per cent points by default. */
  readonly format?: (value: number, measure: string) => string
}

/**
 * Paired differences with their intervals and whether they are significant. Columns that would say the same in every
 * row are left out.
 */
export function differenceTable<D extends EvalDifference>(
  differences: readonly D[],
  {variants = [], titles: measures, format = percent}: DifferenceColumns<D>
): Table | undefined {
  if (differences.length === 0) return undefined
  const all = [
    {column: words('candidate'), of: ({features}: D) => candidateTitle(features), always: false},
    {column: words('compared with'), of: ({over}: D) => candidateTitle(over), always: true},
    {column: words('set'), of: ({set}: D) => set, always: false},
    ...variants.map(variant => ({...variant, always: false})),
    {column: words('measure'), of: ({measure}: D) => measures[measure] ?? measure, always: false},
    {column: figures('difference'), of: ({mean, measure}: D) => signed(mean, value => format(value, measure)), always: true},
    {
      column: figures('95 % interval'),
      of: ({interval: [low, high], measure}: D) =>
        `${signed(low, value => format(value, measure))} to ${signed(high, value => format(value, measure))}`,
      always: true
    },
    {column: words('verdict'), of: verdict, always: true}
  ]
  const shown = all.filter(({of, always}) => always || new Set(differences.map(of)).size > 1)
  const only = [...new Set(differences.map(({measure}) => measure))]
  const what = only.length === 1 ? ` in ${measures[only[0]!] ?? only[0]!}` : ''
  const first = differences[0]!.features
  return {
    title: `Differences${what}`,
    note: `${candidateTitle(first)} minus the other, on the same images, with 95 % bootstrap intervals.`,
    columns: shown.map(({column}) => column),
    rows: differences.map(difference => shown.map(({of}) => of(difference)))
  }
}

const verdict = ({significant, mean, better}: EvalDifference): string =>
  significant ? `significant, ${mean > 0 === (better === 'higher') ? 'better' : 'worse'}` : 'not significant'

/** Tables as a page takes them. */
export const pageTables = (tables: readonly Table[]): NonNullable<EvalPage['tables']> =>
  tables.map(({title, note, columns, rows}) => ({
    title,
    ...(note === undefined ? {} : {note}),
    rows: [columns.map(({name}) => name), ...rows],
    right: columns.map(({align}) => align === 'right')
  }))
