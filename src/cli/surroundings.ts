/** What the process was started in and with, where that cannot work and Node.js would say so late or not at all. */
import {existsSync, readFileSync, readlinkSync} from 'node:fs'
import {UserError} from '../config/errors.js'

/** What Node.js puts in the place of bytes that are no UTF-8. */
const REPLACED = '\uFFFD'

const isText = (bytes: Buffer): boolean => Buffer.from(bytes.toString('utf8')).equals(bytes)
const shown = (bytes: Buffer): string =>
  bytes.toString('latin1').replaceAll(/[^ -~]/g, letter => `\\x${letter.charCodeAt(0).toString(16).padStart(2, '0')}`)

/** The pieces of a file of `/proc` that end with NUL; none on other systems. */
function pieces(path: string): Buffer[] {
  try {
    const text = readFileSync(path).toString('latin1')
    return text.split('\0').map(piece => Buffer.from(piece, 'latin1'))
  } catch {
    return []
  }
}

/**
 * Throws `UserError` (exit 2): the working directory is gone, or its name, an argument or a variable of ours is not
 * UTF-8. Node.js passes such texts on with other bytes, so that other files would be read and written than were named.
 */
export function assertSurroundings(argv: readonly string[]): void {
  const wrong = (message: string, hint: string, code: string): UserError => new UserError(message, {exit: 2, code, hint})
  let here: string
  try {
    here = process.cwd()
  } catch {
    throw wrong('The working directory is not there any more.', 'Change to another folder, then give the command again.', 'NO_FOLDER')
  }
  if (here.includes(REPLACED) && !existsSync(here))
    throw wrong(
      `The name of the working directory is not UTF-8: ${here}.`,
      'Change to the folder above it and name files from there: images in folders of any name are found, outputs need a name in UTF-8.',
      'NOT_UTF8'
    )
  const hint =
    'Node.js passes on nothing else. Images of any name are found in a folder that is named, and in a list on stdin: find photos -print0 | … -0 -. For outputs and models choose a name in UTF-8.'
  if (argv.some(word => word.includes(REPLACED))) {
    const bad = pieces('/proc/self/cmdline').find(bytes => !isText(bytes))
    if (bad) throw wrong(`The argument ${shown(bad)} is not UTF-8.`, hint, 'NOT_UTF8')
  }
  if (Object.entries(process.env).some(([name, value]) => name.startsWith('DINOV2_') && value?.includes(REPLACED))) {
    const bad = pieces('/proc/self/environ').find(bytes => bytes.toString('latin1').startsWith('DINOV2_') && !isText(bytes))
    if (bad) throw wrong(`The environment variable ${shown(bad)} is not UTF-8.`, hint, 'NOT_UTF8')
  }
}

/** The flag of Linux with which a file is open for reading and writing. */
const BOTH_WAYS = 2

/**
 * Whether stdout was closed when the process began: Node.js opens `/dev/null` for reading and writing in its place. So
 * do some programs that throw away what their children say; a shell opens it for writing alone.
 */
export function isStdoutClosed(): boolean {
  try {
    if (readlinkSync('/proc/self/fd/1') !== '/dev/null') return false
    const flags = /^flags:\s*([0-7]+)$/m.exec(readFileSync('/proc/self/fdinfo/1', 'utf8'))
    return flags !== null && (Number.parseInt(flags[1]!, 8) & 3) === BOTH_WAYS
  } catch {
    return false // not a system that tells
  }
}
