/** Opening a pool, whatever its inputs are. */
import type {FeatureMaker} from './features.js'
import {openImagePool} from './image-pool.js'
import type {Pool, PoolOptions} from './pool.js'
import {inspectInputs, readPoolLists} from './pool-inputs.js'
import {openVectorPool} from './vector-pool.js'

/** Opens a pool. Throws `UserError`: nothing there (exit 3), inputs of two kinds, ids that are not there (exit 2). */
export async function openPool(options: PoolOptions, maker: FeatureMaker): Promise<Pool> {
  const {embeddings, stdin} = await inspectInputs(options.inputs, options.stdin ?? process.stdin)
  const lists = await readPoolLists(options)
  return embeddings ? openVectorPool({...options, stdin}, maker, lists) : openImagePool({...options, stdin}, maker, lists)
}
