/**
 * Fully sharded training (Zhao et al. 2023, PyTorch FSDP; ZeRO, Rajbhandari et al. 2020): of every parameter, its
 * moments and its average each of n processes holds a flat piece, padded to equal length.
 *
 * A block is gathered just before it is used, in the forward and again in the backward pass, and let go after; its
 * gradients are summed over the processes at once, and each keeps the piece of its own. Embedding, final norm and
 * heads are gathered for the pass of their network. Optimiser and average work on pieces by element, as on whole
 * tensors. What enters products in bf16 is gathered in bf16; gradients are summed in float32.
 */
import type {Block} from '../../model/block.js'
import type {Head} from '../../model/head.js'
import type {BlockAccess, Vit} from '../../model/vit.js'
import type {ParamMap} from '../../optim/adamw.js'
import {gatherOverProcesses, scatterOverProcesses, sumOverProcesses} from '../../tensor/ops/collectives.js'
import type {Processes} from '../../tensor/ops/collectives.js'
import {cast} from '../../tensor/ops/precision.js'
import {bytesOfNumber} from '../../tensor/ops/precision.js'
import type {Precision} from '../../tensor/ops/precision.js'
import {addAll} from '../../tensor/ops/row-sum.js'
import {add, concat, dispose, pad, reshape, scalar, slice, tidy} from '../../tensor/tf.js'
import type {Tensor, Tensor1D, Tensor2D} from '../../tensor/tf.js'
import {flatten, unflatten} from '../../tensor/tree.js'
import type {HostTensor, TensorSlot} from './state-dict.js'

/** Linear layers of blocks, which enter products in the precision of the run. */
const isProduct = (name: string): boolean => /\.(qkv|proj|fc1|fc2|w12|w3)\.(weight|bias)$/.test(name)

/** A network with its heads, as `step-types.ts` has it. */
type Network = {backbone: Vit; dino_head: Head; ibot_head?: Head}

/** A network while a step uses it: all but its blocks, and the blocks one at a time. */
export type LentNetwork = {
  readonly network: Network
  readonly access: BlockAccess
  /** Lets go of what was gathered. */
  readonly dispose: () => void
}

export class Sharding {
  readonly #shapes: ReadonlyMap<string, readonly number[]>

  constructor(
    private readonly processes: Processes,
    private readonly precision: Precision,
    /** Any full network with the shapes of the run. */
    full: ParamMap
  ) {
    this.#shapes = new Map([...full].map(([name, leaf]) => [name, leaf.shape]))
  }

  /** The pieces of this process; consumes the whole tensors. */
  shard(full: ParamMap): ParamMap {
    const own: ParamMap = new Map()
    for (const [name, leaf] of full) {
      own.set(name, this.#piece(leaf))
      dispose(leaf)
    }
    return own
  }

  /** A network for a step, from the pieces of its parameters. `onGradients` takes over summed pieces of gradients. */
  lend(pieces: ParamMap, onGradients?: (grads: ParamMap) => void): LentNetwork {
    const outside = [...pieces.keys()].filter(name => !name.startsWith('backbone.blocks.'))
    const gathered = this.#gather(pieces, outside, 'fp32')
    const network = unflatten<Network>([...gathered])
    network.backbone.blocks ??= []
    const namesOf = (i: number): string[] => [...pieces.keys()].filter(name => name.startsWith(`backbone.blocks.${i}.`))
    return {
      network,
      access: {
        use: (i, work) => {
          const names = namesOf(i)
          const block = this.#gather(pieces, names, this.precision)
          try {
            return work(unflatten<{backbone: {blocks: Record<number, Block>}}>([...block]).backbone.blocks[i]!)
          } finally {
            dispose([...block.values()])
          }
        },
        gradients: (i, grads) => {
          const named = new Map([...flatten(grads)].map(([name, grad]) => [`backbone.blocks.${i}.${name}`, grad]))
          onGradients?.(this.scatter(named))
        }
      },
      dispose: () => dispose([...gathered.values()])
    }
  }

  /** Sums gradients over the processes and keeps the pieces of this one. Consumes the gradients. */
  scatter(grads: ParamMap): ParamMap {
    const own: ParamMap = new Map()
    if (grads.size === 0) return own
    const {size} = this.processes
    const names = [...grads.keys()]
    const widths = names.map(name => this.#width(name))
    const rows = tidy(() =>
      concat(
        names.map((name, i) => reshape(padded(grads.get(name)!, widths[i]! * size), [size, widths[i]!]) as Tensor2D),
        1
      )
    ) // [n, sum of widths]
    dispose([...grads.values()])
    const sum = scatterOverProcesses(rows, this.processes) // [1, sum of widths]
    dispose(rows)
    let from = 0
    names.forEach((name, i) => {
      const at = from
      own.set(
        name,
        tidy(() => add(reshape(slice(sum, [0, at], [1, widths[i]!]), [-1]), scalar(0)))
      )
      from += widths[i]!
    })
    dispose(sum)
    return own
  }

  /** Adds pieces of gradients to those that are there. Consumes both. */
  static addTo(sums: ParamMap, more: ParamMap): void {
    const known = [...more.keys()].filter(name => sums.has(name))
    const added = addAll(
      known.map(name => sums.get(name)!),
      known.map(name => more.get(name)!)
    )
    for (const [name, grad] of more) if (!sums.has(name)) sums.set(name, grad)
    known.forEach((name, i) => sums.set(name, added[i]!))
  }

  /** The norm of all pieces of a tensor, from that of the pieces of this process. */
  norm(own: number): number {
    return Math.sqrt(tidy(() => sumOverProcesses(scalar(own * own), this.processes).dataSync()[0]!))
  }

  /** The places of maps of pieces, by `group.name`. */
  stateDictOf(groups: Readonly<Record<string, ParamMap>>): Map<string, TensorSlot> {
    return new Map(
      Object.entries(groups).flatMap(([group, pieces]) =>
        [...pieces.keys()].map(name => [`${group}.${name}`, this.#slot(name, pieces)] as const)
      )
    )
  }

  /** All tensors whole, in the memory of the machine; all processes call it at the same time. */
  wholeOnHost(pieces: ParamMap): Map<string, HostTensor> {
    return new Map(
      [...pieces.keys()].map(name => {
        const {shape, read} = this.#slot(name, pieces)
        const values = read!()
        return [name, {shape: shape!, data: async () => values}]
      })
    )
  }

  /** The place of a sharded tensor in a checkpoint: whole when it is read, which all processes do at the same time. */
  #slot(name: string, pieces: ParamMap): TensorSlot {
    return {
      shape: this.#shapes.get(name)!,
      get: () => pieces.get(name)!,
      read: () => {
        const [whole] = this.#gather(pieces, [name], 'fp32').values()
        const values = whole!.dataSync() as Float32Array
        dispose(whole!)
        return values
      },
      put: value => {
        dispose(pieces.get(name)!)
        pieces.set(name, this.#piece(value))
        dispose(value)
      }
    }
  }

  /** Numbers of a tensor in each process. */
  #width(name: string): number {
    return Math.ceil(this.#shapes.get(name)!.reduce((a, b) => a * b, 1) / this.processes.size)
  }

  #piece(leaf: Tensor): Tensor {
    const {rank, size} = this.processes
    const width = Math.ceil(leaf.size / size)
    return tidy(() => add(slice(padded(leaf, width * size), [rank * width], [width]), scalar(0))) // numbers of its own, not a view
  }

  /** Whole tensors of these names; products in `precision`. The caller owns them. */
  #gather(pieces: ParamMap, names: readonly string[], precision: Precision): ParamMap {
    const found: ParamMap = new Map()
    const low = bytesOfNumber(precision) === 4 ? [] : names.filter(isProduct)
    for (const [group, as] of [
      [names.filter(name => !low.includes(name)), 'fp32'],
      [low, precision]
    ] as const) {
      if (group.length === 0) continue
      const all = tidy(() => {
        const flat = concat(group.map(name => cast(pieces.get(name) as Tensor1D, as)))
        return gatherOverProcesses(reshape(flat, [1, -1]), this.processes)
      }) // [n, sum of widths]
      let from = 0
      for (const name of group) {
        const [width, at, shape] = [this.#width(name), from, this.#shapes.get(name)!]
        const size = shape.reduce((a, b) => a * b, 1)
        found.set(
          name,
          tidy(() => reshape(slice(reshape(slice(all, [0, at], [this.processes.size, width]), [-1]), [0], [size]), [...shape]))
        )
        from += width
      }
      dispose(all)
    }
    return new Map(names.map(name => [name, found.get(name)!]))
  }
}

/** A tensor flat, with zeros behind it up to `length`. */
const padded = (leaf: Tensor, length: number): Tensor1D =>
  leaf.size === length ? (reshape(leaf, [-1]) as Tensor1D) : (pad(reshape(leaf, [-1]) as Tensor1D, [[0, length - leaf.size]]) as Tensor1D)
