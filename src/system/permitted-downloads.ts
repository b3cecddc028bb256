/**
 * Whether a model that is named but not on this machine may be downloaded, and who hears of it. One process runs one
 * command: the command permits downloads before it works, and not under `--dry-run`. A program that uses this as a
 * library permits nothing, so nothing is fetched there.
 */

export type PermittedDownloads = {
  /** Says one line: what is downloaded, from where, how large, and where it goes. */
  readonly note: (sentence: string) => void
  /** Begins to show the progress of one download. */
  readonly show: (label: string) => {update(bytes: number, total: number | undefined): void; stop(): void}
  /** Does the work with a signal that aborts when the user stops the program. */
  readonly whileStoppable: <T>(work: (signal: AbortSignal) => Promise<T>) => Promise<T>
  /** Under `--dry-run` nothing is fetched; it is said that it would be. */
  readonly dryRun: boolean
}

let permitted: PermittedDownloads | undefined

/** Permits downloads, or forbids them with undefined. */
export const permitDownloads = (downloads: PermittedDownloads | undefined): void => void (permitted = downloads)

export const permittedDownloads = (): PermittedDownloads | undefined => permitted
