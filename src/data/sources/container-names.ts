/** Files that hold many images, by their names. */

const SHARD_ENDING = /\.(tar|tar\.gz|tgz)$/i

/** Whether a file is a tar shard by its name, compressed by gzip or not. */
export const isShardName = (name: string): boolean => SHARD_ENDING.test(name)

/** The name of a shard without its ending; other names stay. */
export const withoutShardEnding = (name: string): string => name.replace(SHARD_ENDING, '')

/** Whether a file is Parquet by its name. */
export const isParquetName = (name: string): boolean => /\.(parquet|pq)$/i.test(name)
