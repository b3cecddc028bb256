/** The report of a retrieval evaluation. */
import {counted} from '../../../config/counted.js'
import {hitAt, recallAt, type AveragePrecisionRule} from '../../../metrics/retrieval.js'
import {meanMeasure, pairedDifferences, scoreOutcomes, type Outcome} from '../shared/compare.js'
import type {EvalReport, EvalScore, ItemRow, Summary} from '../shared/evaluation.js'
import {candidateTitle, differenceTable, figures, percent, span, words} from '../shared/tables.js'

/** `features` is `chance` for a random order. */
export type RetrievalScore = EvalScore & {
  readonly map: number
  /** Mean share of a query's right answers among the first k, by k. */
  readonly recall: Readonly<Record<string, number>>
  /** Share of queries with a right answer among the first k, by k. */
  readonly hits: Readonly<Record<string, number>>
}

/** What became of one query, for the first features of the report. */
export type QueryResult = {
  readonly query: string
  readonly path: string
  readonly group: string
  readonly averagePrecision: number
  /** 1-based ranks of the right answers. */
  readonly ranks: readonly number[]
  readonly found: readonly {readonly id: string; readonly path: string; readonly similarity: number; readonly right: boolean}[]
}

export type RetrievalReport = EvalReport<RetrievalScore> & {
  readonly task: 'retrieval'
  readonly images: number
  readonly groups: number
  readonly queries: number
  readonly query: 'first' | 'all'
  readonly precision: AveragePrecisionRule
}

/** One query: its average precision, and the 0-based ranks of its `total` right answers. */
export type RankedQuery = {readonly averagePrecision: number; readonly ranks: readonly number[]; readonly total: number}

export type RetrievalFacts = Pick<RetrievalReport, 'images' | 'groups' | 'query' | 'precision' | 'fingerprint'> & {
  readonly k: readonly number[]
  readonly seed: number
  readonly notes: string[]
}

const measures = [meanMeasure<RankedQuery, 'map'>('map', ({averagePrecision}) => averagePrecision)]

/** Makes the report. Items of an outcome are its queries, and whole groups are drawn for intervals. */
export function retrievalReport(outcomes: readonly Outcome<RankedQuery>[], {k: ks, seed, ...facts}: RetrievalFacts): RetrievalReport {
  const scores = scoreOutcomes(outcomes, measures, seed).map((score, i): RetrievalScore => {
    const queries = Array.from(outcomes[i]!.items)
    const mean = (of: typeof recallAt, k: number): number =>
      queries.reduce((sum, {ranks, total}) => sum + of(ranks, total, k), 0) / queries.length
    const byK = (of: typeof recallAt): Record<string, number> => Object.fromEntries(ks.map(k => [k, mean(of, k)]))
    return {...score, recall: byK(recallAt), hits: byK(hitAt)}
  })
  return {
    task: 'retrieval',
    ...facts,
    queries: outcomes[0]!.items.length,
    scores,
    differences: pairedDifferences(outcomes, measures, {features: 'model', seed, notes: facts.notes})
  }
}

/** Rows of `--predictions`. */
export function* queryItems(queries: readonly QueryResult[], features: string): Generator<ItemRow> {
  for (const {query, path: _, found, ...rest} of queries)
    yield {id: query, set: 'all', features, ...rest, found: found.map(({path: __, ...one}) => one)}
}

export function retrievalSummary({scores, differences, queries, images, groups}: RetrievalReport): Summary {
  const ks = Object.keys(scores[0]!.recall)
  const table = differenceTable(differences, {titles: {map: 'points of mAP'}})
  return {
    heading: `${counted(queries, 'query', 'queries')} among ${counted(images, 'image')} in ${counted(groups, 'group')}`,
    tables: [
      {
        title: 'Scores',
        note: 'In per cent. recall@k is the mean share of right answers among the first k; hit@k the share of queries with at least one there. 95 % bootstrap intervals, by drawing groups with replacement.',
        columns: [words('features'), ...['mAP %', '95 % interval', ...ks.map(k => `recall@${k}`), ...ks.map(k => `hit@${k}`)].map(figures)],
        rows: scores.map(({features, map, intervals, recall, hits}) => [
          candidateTitle(features),
          percent(map),
          span(intervals['map']!),
          ...ks.map(k => percent(recall[k]!)),
          ...ks.map(k => percent(hits[k]!))
        ])
      },
      ...(table ? [table] : [])
    ]
  }
}
