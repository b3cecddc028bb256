/**
 * What one image is called and where it lies, before anything of it is read.
 *
 * A name on disk is bytes, not text. Where the bytes are UTF-8 the path is a string; otherwise it stays a Buffer, the
 * id shows the odd bytes as `\xNN`, and the whole path rides along in base64, so that no file is lost or mixed up with
 * another.
 */
import {isUtf8} from 'node:buffer'
import {valueText} from '../../system/json.js'
import {isParquetName, isShardName} from './container-names.js'

/** One image of the input, as `listImages` yields it. */
export type ImageRef = {
  /**
   * The list's `id` field, else the path exactly as given or found (in a tar: `shard/key`); bytes that are not UTF-8
   * appear as `\xNN`.
   */
  readonly id: string
  /** What to open: a file, or the shard that holds the image. */
  readonly path: string | Buffer
  /** The path as given or found, in base64; set only where it is not UTF-8. */
  readonly pathBase64?: string
  /** What rides along to the output: `label`, `depth`, `mask`, `group`, … */
  readonly fields: Readonly<Record<string, unknown>>
  /**
   * The folder that paths in `fields` are relative to: that of the list; absent on stdin (the process's own) and for
   * images without fields.
   */
  readonly base?: string
  /**
   * First folder under the given root (`photos/cat/1.jpg` found under `photos` → `cat`), or inside a tar shard
   * (`shard-folders.ts`): the label of images that have no `label` field. Absent for lists and for files that lie in
   * the root itself.
   */
  readonly folder?: string
  /** The encoded image itself, for members of a compressed tar shard and rows of a Parquet file. */
  readonly bytes?: Uint8Array
  /**
   * Where the encoded image lies in `path`, in bytes: enough to read a shard's member again once `bytes` was let go.
   */
  readonly range?: {readonly offset: number; readonly size: number}
  /** The row of `path`, a Parquet file, that holds the image. */
  readonly row?: number
  /** A copy of the encoded image in a temporary file, of images that are held without their bytes. */
  readonly copy?: {readonly path: string; readonly offset: number; readonly size: number}
  /**
   * Why there is nothing to decode (a row without a path, a damaged shard): a sentence. Decoding refuses the image
   * with it, so that it is counted like any other bad one.
   */
  readonly problem?: string
}

/** Whether an image lies inside another file: its id is then a key, which has no ending. */
export const isPacked = ({bytes, range, copy}: Pick<ImageRef, 'bytes' | 'range' | 'copy'>): boolean => Boolean(bytes ?? range ?? copy)

/** An image that could not be used, and why, in a clause. */
export type RejectedImage = {readonly id: string; readonly path: string; readonly reason: string; readonly pathBase64?: string}

/** Whether the path of an image tells which one it is; that of a shard, a Parquet file or stdin does not. */
const tellsImage = ({path, range, row}: ImageRef): boolean =>
  typeof path === 'string' &&
  path !== '' &&
  range === undefined &&
  row === undefined &&
  path !== 'stdin' &&
  !isShardName(path) &&
  !isParquetName(path)

/** What is reported of an image that could not be used, named by its path, or by its id where that tells more. */
export const rejectedImage = (ref: ImageRef, reason: string): RejectedImage => ({
  id: ref.id,
  path: tellsImage(ref) ? (ref.path as string) : ref.id,
  reason,
  ...(ref.pathBase64 === undefined ? {} : {pathBase64: ref.pathBase64})
})

/** What `listImages` reports on the way; none of it stops the list. */
export type SourceNote = {
  /**
   * `skipped`: not an image by its name or kind. `duplicate`: the id was seen before (said once per id). `labels`:
   * which folders inside a shard are its labels.
   */
  readonly kind: 'skipped' | 'duplicate' | 'labels'
  readonly path: string
  readonly reason: string
}

/** Length of the UTF-8 character that starts at `at`, or 0 where none does. */
function characterAt(bytes: Buffer, at: number): number {
  const lead = bytes[at]!
  const length = lead < 0x80 ? 1 : lead < 0xc2 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : lead < 0xf5 ? 4 : 0
  return length > 0 && at + length <= bytes.length && isUtf8(bytes.subarray(at, at + length)) ? length : 0
}

/** Bytes of a path as text: UTF-8 as it is, every byte that is no part of a UTF-8 character as `\xNN`. */
export function showBytes(bytes: Buffer): string {
  if (isUtf8(bytes)) return bytes.toString('utf8')
  const shown: string[] = []
  for (let i = 0; i < bytes.length;) {
    const length = characterAt(bytes, i)
    shown.push(length ? bytes.toString('utf8', i, i + length) : `\\x${bytes[i]!.toString(16).padStart(2, '0')}`)
    i += length || 1
  }
  return shown.join('')
}

/** The bytes as a string where they are UTF-8, else themselves (copied: they may be a view of a larger block). */
export const pathOfBytes = (bytes: Buffer): string | Buffer => (isUtf8(bytes) ? bytes.toString('utf8') : Buffer.from(bytes))

const NONE: Readonly<Record<string, unknown>> = Object.freeze({})

/**
 * An image given by its path: `shown` names it, `open` (the same, unless the path was relative to elsewhere) is
 * opened.
 */
export function refOf(
  shown: string | Buffer,
  open: string | Buffer = shown,
  fields: Readonly<Record<string, unknown>> = NONE,
  folder?: string
): ImageRef {
  const id = typeof shown === 'string' ? shown : showBytes(shown)
  const odd = typeof shown === 'string' ? undefined : shown.toString('base64')
  return {id, path: open, fields, ...(odd === undefined ? {} : {pathBase64: odd}), ...(folder === undefined ? {} : {folder})}
}

/** A row of the input that names no image; it is refused with the sentence when its turn comes. */
export const problemRef = (id: string, path: string | Buffer, problem: string): ImageRef => ({id, path, fields: NONE, problem})

/** What to do about an image without a label. */
export const LABEL_HINT =
  'A label is the folder under the given root (train/cat/1.jpg under train), also inside a tar; the label field of a list; or the .cls or .json beside an image in a tar.'

/** A label among fields, as a text: lists as their parts, objects as JSON; undefined where there is none. */
export const labelIn = ({label}: Readonly<Record<string, unknown>>): string | undefined =>
  label === undefined || label === null ? undefined : valueText(label) || undefined

/** The label of an image: its `label` field, else the first folder under the given root, else undefined. */
export const labelOf = (ref: ImageRef): string | undefined => labelIn(ref.fields) ?? ref.folder

/**
 * The folder that an id lies in: the label of embeddings that have no `label` field. A shard, a Parquet file or stdin
 * itself is no folder.
 */
export function folderOf(id: string): string | undefined {
  const parts = id.split('/')
  const folder = parts.at(-2)
  if (
    !folder ||
    folder === '.' ||
    folder === '..' ||
    isShardName(folder) ||
    isParquetName(folder) ||
    (folder === 'stdin' && parts.length === 2)
  )
    return undefined
  return folder
}
