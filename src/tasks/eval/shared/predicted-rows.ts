/**
 * The rows of a prediction, kept line by line while it runs, so that an interrupted one goes on: what was predicted is
 * read back instead of computed again, and the rows together are those of a run that was never stopped.
 *
 * The first line says with which model, head and options the rows were made; rows of other ones are refused.
 */
import {createHash} from 'node:crypto'
import {existsSync} from 'node:fs'
import {rm} from 'node:fs/promises'
import {dirname} from 'node:path'
import {UserError} from '../../../config/errors.js'
import {isObject, jsonObjectOr, type JsonObject} from '../../../system/json.js'
import {fileBytes, isOpenPipe} from '../../../system/plain-file.js'
import {lockOutput, type Lock} from '../../../system/lock.js'
import {inFolderOf} from '../../../system/output.js'
import type {ImageRef} from '../../../data/sources/image-ref.js'
import type {Fields} from '../../../files/embeddings/embeddings.js'
import {fieldsOf} from '../../embed/embedder.js'
import {fieldsMark} from '../../embed/plain-fields.js'
import {AppendFile} from '../../../files/run/append-file.js'

/** Stands in each kept row: a checksum of its image's fields. */
const MARK = 'fields_crc32'

export type PredictedRowsRequest = {
  readonly path: string
  /** What the rows are for, a file or a folder: one process at a time may write it. */
  readonly output: string
  /** File or name of the head. */
  readonly head: string
  /** What else the rows depend on. */
  readonly options: Readonly<Record<string, unknown>>
  /** The field of a row that names the file which was written with it, where one is. */
  readonly file?: 'predicted' | 'mask'
  /** Whether rows that are there are gone on from; otherwise they are dropped. */
  readonly resume: boolean
}

export class PredictedRows {
  #file: AppendFile | undefined
  #begun: JsonObject | undefined
  #closed = false
  readonly #earlier = new Map<string, {readonly row: JsonObject; readonly mark: unknown}>()
  #lock: Lock | undefined

  private constructor(
    readonly path: string,
    private readonly output: string,
    private readonly making: JsonObject,
    private readonly there: {readonly making: JsonObject; readonly bytes: number} | undefined,
    private readonly file: PredictedRowsRequest['file']
  ) {}

  /**
   * Reads the rows that are there. Throws `UserError` where the file is none of this kind, or where another process
   * writes it (exit 2).
   */
  static async open(request: PredictedRowsRequest): Promise<PredictedRows> {
    if (!existsSync(dirname(request.path))) return PredictedRows.#read(request)
    const lock = await lockOutput(request.path, request.output)
    try {
      const opened = await PredictedRows.#read(request)
      opened.#lock = lock
      return opened
    } catch (error) {
      await lock.release()
      throw error
    }
  }

  static async #read({path, output, head, options, resume, file}: PredictedRowsRequest): Promise<PredictedRows> {
    const making = {head: await digest(head), ...options}
    const text = resume && existsSync(path) ? await wholeFile(path) : undefined
    if (!text) return new PredictedRows(path, output, making, undefined, file)
    const bytes = text.lastIndexOf(10) + 1 // a line that was cut off is written again
    const lines = text.subarray(0, bytes).toString('utf8').split('\n').slice(0, -1)
    const [first, ...rows] = lines.map(line => jsonObjectOr(line))
    if (lines.length === 0) return new PredictedRows(path, output, making, undefined, file)
    const before = first?.['predicted_with']
    if (!isObject(before) || rows.some(row => typeof row?.['id'] !== 'string'))
      throw new UserError(`${path} holds no rows of an interrupted prediction.`, {
        exit: 2,
        code: 'OUTPUT_EXISTS',
        hint: 'Remove it, or name another output.'
      })
    const opened = new PredictedRows(path, output, making, {making: before, bytes}, file)
    const owners = new Map<unknown, string>() // of files: the last image that wrote one
    for (const line of rows) {
      const {[MARK]: mark, ...row} = line!
      const id = row['id'] as string
      opened.#earlier.set(id, {row, mark})
      const owner = file && owners.get(row[file])
      if (owner !== undefined && owner !== id) opened.#earlier.delete(owner)
      if (file) owners.set(row[file], id)
    }
    return opened
  }

  /**
   * Takes the fingerprint of the model, which has to be known before the first row. Nothing is written yet: a command
   * that fails before it leaves no file. Throws `UserError` (exit 2) where the rows that are there were made by
   * something else.
   */
  begin(model: string): void {
    const making: JsonObject = {model, ...this.making}
    const there = this.there
    if (there) {
      const names = [...new Set([...Object.keys(making), ...Object.keys(there.making)])]
      const differ = names.filter(name => JSON.stringify(making[name]) !== JSON.stringify(there.making[name]))
      if (differ.length > 0)
        throw new UserError(`The rows in ${this.path} were predicted with another ${differ.join(', another ')}.`, {
          exit: 2,
          code: 'OTHER_PREDICTION',
          hint: 'Go on with the same model, head and flags, start anew with --force, or name another output.'
        })
    }
    this.#begun = making
  }

  /**
   * The row of an image that was predicted before; undefined where the image has another label, file name or other
   * field now, or the file of the row is gone, so that it is predicted again.
   */
  earlier(ref: ImageRef): JsonObject | undefined {
    const found = this.#earlier.get(ref.id)
    if (found === undefined) return undefined
    const made = this.file && found.row[this.file]
    const isThere = typeof made !== 'string' || existsSync(made)
    if (isThere && (found.mark === undefined || found.mark === fieldsMark(fieldsOf(ref)))) return found.row
    this.#earlier.delete(ref.id)
    return undefined
  }

  /**
   * Keeps a row of an image with these fields; one that is there already stays once. Throws `UserError` where it
   * cannot be written.
   */
  async add(row: Readonly<Record<string, unknown>>, fields: Fields): Promise<void> {
    if (!this.#earlier.has(row['id'] as string)) await this.#append({...row, [MARK]: fieldsMark(fields)})
  }

  /** The same, of an image whose fields are not at hand. */
  async addOf(ref: ImageRef, row: Readonly<Record<string, unknown>>): Promise<void> {
    await this.add(row, fieldsOf(ref))
  }

  async #append(value: unknown): Promise<void> {
    if (this.#closed) throw new Error(`${this.path} is closed.`)
    if (!this.#file) {
      this.#file = await inFolderOf(this.path, async () => {
        // The folder may not have been there until now.
        this.#lock ??= await lockOutput(this.path, this.output)
        return AppendFile.open(this.path, this.there?.bytes ?? 0)
      })
      if (!this.there) await this.#append({predicted_with: this.#begun})
    }
    await this.#file.append(JSON.stringify(value) + '\n')
    if (this.#file.failure) throw this.#file.failure
  }

  /** Closes the file where it is open: at the end, and on every other way out. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }

  async close(): Promise<void> {
    this.#closed = true
    await this.#file?.close()
    this.#file = undefined
    await this.#lock?.release()
    this.#lock = undefined
  }

  /** Closes and removes the file: the rows stand elsewhere now. */
  async remove(): Promise<void> {
    if (this.#lock) await rm(this.path, {force: true}) // before it is given back, or another process may have begun one
    await this.close()
  }
}

async function wholeFile(path: string): Promise<Buffer> {
  const pieces: Uint8Array[] = []
  for await (const piece of fileBytes(path)) pieces.push(piece)
  return Buffer.concat(pieces)
}

/** SHA-256 of a file, or the name itself where it is a pipe or the name of a released head. */
async function digest(name: string): Promise<string> {
  if (!existsSync(name) || isOpenPipe(name)) return name
  const hash = createHash('sha256')
  for await (const piece of fileBytes(name)) hash.update(piece)
  return hash.digest('hex')
}
