/** Files that hold many images, by their names. */

const SHARD_ENDING = /\.(tar|tar\.gz|tgz)$/i

/** Whether a file is a tar shard by its name, compressed by gzip or not. */
export const isShardName = (name: string): boolean => SHARD_ENDING.test(name)

/** The name of a shard without its ending; other names stay. */
export const withoutShardEnding = (name: string): string => name.replace(SHARD_ENDING, '')

/** Whether a file is Parquet by its name. */
export const isParquetName = (name: string): boolean => /\.(parquet|pq)$/i.test(name)

/** The shard or Parquet file in front of the name of an image inside it: `a/b.tar` of `a/b.tar/cat/1`. */
export function containerOf(name: string): string | undefined {
  for (let at = name.indexOf('/', 1); at > 0; at = name.indexOf('/', at + 1)) {
    const front = name.slice(0, at)
    if (isShardName(front) || isParquetName(front)) return front
  }
  return undefined
}

/**
 * A name with another file at its beginning, as `change` makes it; the key of a member behind the file is no path, so
 * `..` in it stays.
 */
export function changeFile(name: string, change: (file: string) => string): string {
  const file = containerOf(name) ?? name
  return change(file) + name.slice(file.length)
}

/** A name without the parts `.` and doubled strokes, which it loses where it is made relative to a folder. */
export const plainName = (name: string): string =>
  name
    .split('/')
    .filter((part, i) => part !== '.' && (part !== '' || i === 0))
    .join('/')
