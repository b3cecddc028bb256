/** Images of the site to begin with. */
import {make} from './dom.js'
import {loadImage, type Loaded} from './images.js'

export type Example = {readonly file: string; readonly name: string; readonly load: () => Promise<Loaded>}

export const examplesOf = (files: readonly {readonly file: string; readonly name: string}[]): Example[] =>
  files.map(({file, name}) => ({
    file,
    name,
    load: async () => {
      const response = await fetch(file).catch(() => undefined)
      if (!response?.ok) throw new Error(`${file} could not be loaded.`)
      return loadImage(await response.blob(), name)
    }
  }))

/** A button for each example. */
export const exampleButtons = (examples: readonly Example[], onPress: (example: Example) => void): HTMLElement[] =>
  examples.map(example => {
    const button = make(
      'button',
      {class: 'thumb', title: example.name, 'aria-label': `Example: ${example.name}`},
      make('img', {src: example.file, alt: ''})
    )
    button.addEventListener('click', () => onPress(example))
    return button
  })
