/** Files that hold many images, by their names. */

/** Whether a file is a tar shard by its name, compressed by gzip or not. */
export const isShardName = (name: string): boolean => /\.(tar|tar\.gz|tgz)$/i.test(name)

/** Whether a file is Parquet by its name. */
export const isParquetName = (name: string): boolean => /\.(parquet|pq)$/i.test(name)
