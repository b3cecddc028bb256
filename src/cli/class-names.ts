/** Names of classes in a file, one a line. */
import {readText} from '../system/plain-file.js'

/** The names; a line end at the end of the file is no further name. */
export async function classNames(file: string): Promise<string[]> {
  return (await readText(file)).split(/\r?\n/).filter((line, i, all) => line !== '' || i < all.length - 1)
}
