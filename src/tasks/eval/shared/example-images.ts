/**
 * Images that were classified, as a page shows them: the most confident errors, and images that were classified
 * correctly with middling and with high confidence.
 */
import {basename} from 'node:path'
import type {PageImage} from '../../../render/eval-page.js'
import {pickExamples, type Examples} from './pick-examples.js'
import {thumbnail, withPackedImages, type ThumbnailOptions} from './thumbnails.js'

/** An image with the class that was predicted. `confidence` is between 0 and 1. */
export type ClassifiedImageExample = {
  readonly path: string
  readonly label: string
  readonly predicted: string
  readonly confidence: number
}
export type ClassifiedExamples = Examples<ClassifiedImageExample>

/** Images of a kind on the page. */
const SHOWN = 12

const isRight = ({label, predicted}: ClassifiedImageExample): boolean => label === predicted

/**
 * The most confident errors as the worst ones; as best and typical ones images that were classified correctly.
 */
export function pickClassified(all: readonly ClassifiedImageExample[]): ClassifiedExamples {
  const by = {score: ({confidence}: ClassifiedImageExample) => confidence, name: ({path}: ClassifiedImageExample) => path}
  const wrong = all.filter(image => !isRight(image)).toSorted((a, b) => b.confidence - a.confidence || (a.path < b.path ? -1 : 1))
  const {best, typical} = pickExamples(all.filter(isRight), SHOWN, by)
  return {best, typical, worst: wrong.slice(0, SHOWN)}
}

/** The sections of a page that show them, and how many images could not be opened. Empty sections are left out. */
export async function exampleSections(
  {worst, typical, best}: ClassifiedExamples,
  options: ThumbnailOptions
): Promise<{readonly sections: readonly {readonly title: string; readonly items: readonly PageImage[]}[]; readonly missing: number}> {
  let missing = 0
  const found = await withPackedImages(
    [...worst, ...typical, ...best].map(({path}) => path),
    options
  )
  const pictures = async (images: readonly ClassifiedImageExample[]): Promise<PageImage[]> => {
    const shown: PageImage[] = []
    for (const image of images) {
      const picture = await thumbnail(image.path, found)
      if (picture) shown.push({...picture, caption: captionOf(image), right: isRight(image)})
      else missing++
    }
    return shown
  }
  const sections = [
    {title: 'Most confident errors', items: await pictures(worst)},
    {title: 'Classified correctly, middling confidence', items: await pictures(typical)},
    {title: 'Classified correctly, most confident', items: await pictures(best)}
  ]
  return {sections: sections.filter(({items}) => items.length > 0), missing}
}

function captionOf({path, label, predicted, confidence}: ClassifiedImageExample): string {
  const figure = `${(100 * confidence).toFixed(1)} %`
  return `${basename(path)}: ${label === predicted ? `${label}, ${figure}` : `${label}, predicted ${predicted} (${figure})`}`
}
