/** How the tensors of a run are spread over its processes, as its settings say. */
import type {Settings} from '../../config/table.js'
import type {ParamMap} from '../../optim/adamw.js'
import type {Processes} from '../../tensor/ops/collectives.js'
import type {Precision} from '../../tensor/ops/precision.js'
import {Sharding} from './sharding.js'

/**
 * How the tensors of a run are spread: `spread` makes of a whole network that of this process, and leaves it whole
 * where `train.parallel` is not fsdp. `sharding` is there when it has.
 */
export function shardingOf(
  {train}: Settings,
  precision: Precision,
  processes: Processes | undefined
): {readonly spread: (whole: ParamMap) => ParamMap; readonly sharding: Sharding | undefined} {
  let sharding: Sharding | undefined
  return {
    spread: whole => {
      if (!processes || train.parallel !== 'fsdp') return whole
      sharding = new Sharding(processes, precision, whole)
      return sharding.shard(whole)
    },
    get sharding() {
      return sharding
    }
  }
}
