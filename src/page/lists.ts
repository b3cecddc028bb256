/** Lists of rows, as the page shows them and as files that every command takes. */
import {counted} from '../config/counted.js'

import {rowName, type MapPoints} from './points.js'

export type ListName = 'none' | 'selection' | 'outliers' | 'duplicates' | 'doubtful' | 'representatives'

export type Listing = {
  readonly rows: readonly number[]
  /** What stands below each picture. */
  readonly caption?: (at: number) => string
  /** What a file of the list says of each row besides what is known of it. */
  readonly fields?: (at: number) => Readonly<Record<string, unknown>>
  readonly text: string
}

export const listTitles: Readonly<Record<ListName, string>> = {
  none: 'none',
  selection: 'selection (lasso)',
  outliers: 'unlike all others',
  duplicates: 'near-duplicates',
  doubtful: 'doubtful labels',
  representatives: 'one of each cluster'
}

const percent = (share: number): string => `${Math.round(100 * share)} %`

/** The rows of a list; `length` is how many outliers are shown. */
export function listing(points: MapPoints, name: ListName, selection: readonly number[], length: number): Listing {
  const {data, outlier, cluster} = points
  switch (name) {
    case 'none':
      return {rows: [], text: ''}
    case 'selection':
      return {
        rows: selection,
        text:
          selection.length > 0
            ? `${counted(selection.length, 'image')} inside the lasso.`
            : 'Press Lasso, then draw round some images on the map.'
      }
    case 'outliers': {
      const rows = Array.from(outlier.keys())
        .sort((a, b) => outlier[b]! - outlier[a]! || a - b)
        .slice(0, length)
      return {
        rows,
        caption: at => outlier[rows[at]!]!.toFixed(3),
        fields: at => ({outlier: Number(outlier[rows[at]!]!.toFixed(5))}),
        text: 'The images farthest from their nearest neighbours: rare ones, and ones that do not belong. The number is 1 less the mean likeness with them.'
      }
    }
    case 'duplicates': {
      const {duplicates, threshold} = data
      return {
        rows: duplicates.map(([row]) => row),
        caption: at => percent(duplicates[at]![2]),
        fields: at => ({similar_to: rowName(points, duplicates[at]![1]), similarity: duplicates[at]![2]}),
        text: `${counted(duplicates.length, 'image is', 'images are')} at least ${percent(threshold)} like an earlier one, which is kept out of this list.`
      }
    }
    case 'doubtful': {
      const {contradicted, labels} = data
      return {
        rows: contradicted.map(([row]) => row),
        caption: at => `${labels[contradicted[at]![1]]!}?`,
        fields: at => ({neighbours_label: labels[contradicted[at]![1]]!, share: contradicted[at]![2]}),
        text: `${counted(contradicted.length, 'image has', 'images have')} a label that most neighbours do not have; below stands theirs. Some are mistakes, some are hard.`
      }
    }
    case 'representatives': {
      const rows = data.representatives
      return {
        rows,
        caption: at => `cluster ${cluster[rows[at]!]! + 1}`,
        fields: at => ({cluster: cluster[rows[at]!]!}),
        text: `Of each of ${counted(data.clusters, 'cluster')} the image nearest to its middle: the whole set at a glance.`
      }
    }
  }
}

/** A list as JSON Lines: what is known of each row, then what the list says of it. */
export const asLines = ({data}: MapPoints, {rows, fields}: Listing): string =>
  rows.map((row, at) => `${JSON.stringify({...data.rows[row], ...fields?.(at)})}\n`).join('')

/** Hands a text to the user as a file. */
export function saveFile(name: string, text: string): void {
  const link = document.createElement('a')
  link.href = URL.createObjectURL(new Blob([text], {type: 'application/jsonl'}))
  link.download = name
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000)
}
