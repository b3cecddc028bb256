/**
 * Whether a model that is named but not on this machine may be downloaded, and who hears of it. One process runs one
 * command: the command permits downloads before it works, and under `--dry-run` they are planned. A program that uses
 * this as a library permits nothing, so nothing is fetched there.
 */
import {UserError} from '../config/errors.js'

export type PermittedDownloads = {
  /** Says one line: what is downloaded, from where, how large, and where it goes. */
  readonly note: (sentence: string) => void
  /** Begins to show the progress of one download. */
  readonly show: (label: string) => {update(bytes: number, total: number | undefined): void; stop(): void}
  /** Does the work with a signal that aborts when the user stops the program. */
  readonly whileStoppable: <T>(work: (signal: AbortSignal) => Promise<T>) => Promise<T>
  /** Under `--dry-run` nothing is fetched: `PlannedDownload` is thrown. */
  readonly dryRun: boolean
}

/** What would be downloaded; `bytes` where they are known. */
export type Download = {readonly model: string; readonly url: string; readonly bytes: number | undefined; readonly folder: string}

/** Thrown under `--dry-run` where work cannot be planned further without a model that would be downloaded first. */
export class PlannedDownload extends UserError {
  constructor(readonly download: Download) {
    super(`${download.model} is not on this machine.`, {
      exit: 3,
      code: 'NO_INPUT',
      hint: `Fetch it with \`dinov2 models pull ${download.model}\`.`
    })
  }
}

/** A download that is planned, as a sentence. */
export const plannedSentence = ({model, url, bytes, folder}: Download): string =>
  `would download ${model} first (${bytesText(bytes)}) from ${url} to ${folder}`

/** Bytes as people say them. */
export const bytesText = (bytes: number | undefined): string =>
  bytes === undefined ? 'length unknown' : bytes >= 1e6 ? `${(bytes / 1e6).toFixed(1)} MB` : `${Math.ceil(bytes / 1e3)} kB`

let permitted: PermittedDownloads | undefined

/** Permits downloads, or forbids them with undefined. */
export const permitDownloads = (downloads: PermittedDownloads | undefined): void => void (permitted = downloads)

export const permittedDownloads = (): PermittedDownloads | undefined => permitted
