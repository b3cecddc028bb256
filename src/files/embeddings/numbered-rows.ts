/** Tables that name their rows nowhere: rows are numbered then, which is said, because ids are what lists join by. */
import {noteOnStderr} from '../../system/compile.js'

/** Files of which it was said, each once: a command may open one several times. */
const said = new Set<string>()
const MOST = 100

/** Says on stderr that the rows of `file` are numbered; `columns` are those that could name them. */
export function noteNumbered(file: string, columns: readonly string[]): void {
  if (said.has(file) || said.size >= MOST) return
  said.add(file)
  const rename = `; where one of these names the images, rename it to id: ${columns.slice(0, 6).join(', ')}${columns.length > 6 ? ', …' : ''}`
  noteOnStderr(`${file} has no column id, so its rows are numbered from 0${columns.length === 0 ? '' : rename}`)
}
