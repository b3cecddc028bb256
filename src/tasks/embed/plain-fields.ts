/** The fields of an image as an earlier run may have kept them, for telling whether they have changed since. */
import {basename} from 'node:path'
import type {Fields} from '../../files/embeddings/embeddings.js'
import {crc32, crcText} from '../../system/crc32.js'
import {parseOwnJson} from '../../system/json.js'

/** Fields as a file gives them back: no empty ones, and of a path the file's name alone, since folders are moved. */
export function plainFields(fields: Fields): Record<string, unknown> {
  const {path, path_base64: _bytes, ...rest} = parseOwnJson(JSON.stringify(fields)) as Record<string, unknown>
  const named = typeof path === 'string' ? {...rest, path: basename(path)} : rest
  return Object.fromEntries(Object.entries(named).filter(([, value]) => value !== null))
}

/** A checksum of them. */
export const fieldsMark = (fields: Fields): string => crcText(crc32(Buffer.from(JSON.stringify(plainFields(fields)))))
