/**
 * The program, for `bench/step-time`: steps of several processes take turns in the condition of the network
 * (`bench/peers/slow-network.py`) and, with `train.parallel=fsdp`, in whether communication overlaps with computing.
 * All conditions stand side by side in one run, so that whatever else the machine does meets each of them.
 *
 * BENCH_CONDITIONS says how many conditions of the network there are. Step t, from 0, has condition t modulo that
 * number, and overlaps in every other turn.
 */
import {createSocket} from 'node:dgram'
import {main} from '../src/cli/main.js'
import {TrainingProcesses} from '../src/tasks/train/processes.js'
import {Sharding} from '../src/tasks/train/sharding.js'

const conditions = Number(process.env['BENCH_CONDITIONS'] ?? 1)
const socket = createSocket('udp4').unref()
let step = 0

// Before each step all processes agree whether to stop: none computes the step before all have come here.
const {exchange} = TrainingProcesses.prototype
TrainingProcesses.prototype.exchange = async function <T extends object>(this: TrainingProcesses, own: T): Promise<T[]> {
  if ('stop' in own) {
    Sharding.overlaps = Math.floor(step / conditions) % 2 === 0
    const next = step++ % conditions
    if (this.rank === 0) await new Promise(done => socket.send(Uint8Array.of(next), 9, '10.9.0.250', done))
  }
  return exchange.call(this, own) as Promise<T[]>
}

await main(new URL('../../package.json', import.meta.url).href)
