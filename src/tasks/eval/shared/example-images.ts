/**
 * Images that were classified, as a page shows them: those it was wrong and sure about, the usual ones, and those it
 * was right and sure about.
 */
import type {Picture} from '../../../render/eval-page.js'
import {thumbnail, type ThumbnailOptions} from './thumbnails.js'

/** An image with what was said of it. `confidence` is between 0 and 1. */
export type Case = {readonly path: string; readonly truth: string; readonly said: string; readonly confidence: number}
export type Cases = {readonly worst: readonly Case[]; readonly typical: readonly Case[]; readonly best: readonly Case[]}

const shown = 12

/**
 * Picks wrong and surest, right and neither sure nor unsure, right and surest; equal ones by path. None comes twice
 * where there are enough.
 */
export function pickCases(all: readonly Case[]): Cases {
  const surest = all.toSorted((a, b) => b.confidence - a.confidence || (a.path < b.path ? -1 : 1))
  const right = surest.filter(({truth, said}) => truth === said)
  const middle = Math.max(0, Math.floor((right.length - shown) / 2))
  return {
    worst: surest.filter(({truth, said}) => truth !== said).slice(0, shown),
    typical: right.slice(middle, middle + shown),
    best: right.slice(0, shown)
  }
}

/** Small pictures of images that can be opened, with what was said of them. */
async function pictured(cases: readonly Case[], options: ThumbnailOptions): Promise<Picture[]> {
  const out: Picture[] = []
  for (const {path, truth, said, confidence} of cases) {
    const picture = await thumbnail(path, options)
    if (!picture) continue
    const sure = `${(100 * confidence).toFixed(1)} %`
    out.push({...picture, caption: said === truth ? `${truth}, ${sure}` : `${truth}, taken for ${said} (${sure})`, right: said === truth})
  }
  return out
}

/** The picture sections of a page; those without a picture are left out. */
export async function caseSections(
  {worst, typical, best}: Cases,
  options: ThumbnailOptions
): Promise<{readonly title: string; readonly items: readonly Picture[]}[]> {
  const sections = [
    {title: 'Wrong and sure of it', items: await pictured(worst, options)},
    {title: 'Right, neither sure nor unsure', items: await pictured(typical, options)},
    {title: 'Right and sure of it', items: await pictured(best, options)}
  ]
  return sections.filter(({items}) => items.length > 0)
}
