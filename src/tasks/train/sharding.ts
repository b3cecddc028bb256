/**
 * Fully sharded training (Zhao et al. 2023, PyTorch FSDP; ZeRO, Rajbhandari et al. 2020): of every parameter, its
 * moments and its average each of n processes holds a flat piece, padded to equal length.
 *
 * A block is gathered just before it is used, in the forward and again in the backward pass, and let go after; its
 * gradients are summed over the processes at once, and each keeps the piece of its own. Both travel while another
 * block computes: the gather of the next block begins before the work of a block, and the gradients of a block are
 * waited for when those of the next are there. Heads travel beside the blocks before them, and their gradients beside
 * the backward pass. Embedding and final norm are gathered before the pass of their network, and their gradients sent
 * after it. Optimizer and average work on pieces by element, as on whole tensors.
 *
 * What enters products in bf16 is gathered in bf16, and gradients of those layers, which come out of products in bf16,
 * are sent in bf16; they are added up in float32. Pieces, moments and averages are float32.
 */
import type {Block} from '../../model/block.js'
import type {BlockAccess, Vit} from '../../model/vit.js'
import type {ParamMap} from '../../optim/adamw.js'
import {beginExchangeOfRows, beginGather} from '../../tensor/ops/collectives.js'
import type {Processes} from '../../tensor/ops/collectives.js'
import {cast} from '../../tensor/ops/precision.js'
import {bytesOfNumber} from '../../tensor/ops/precision.js'
import type {Precision} from '../../tensor/ops/precision.js'
import {addAll} from '../../tensor/ops/row-sum.js'
import {concat, dispose, mul, pad, reshape, scalar, slice, sum, tidy} from '../../tensor/tf.js'
import type {Tensor, Tensor1D, Tensor2D} from '../../tensor/tf.js'
import {flatten, unflatten} from '../../tensor/tree.js'
import {LentHeads, type PendingMap} from './lent-heads.js'
import {checksumOf} from './state-dict.js'
import type {HostTensor, TensorSlot} from './state-dict.js'

/** Linear layers of blocks, which enter products in the precision of the run. */
export const isProduct = (name: string): boolean => /\.(qkv|proj|fc1|fc2|w12|w3)\.(weight|bias)$/.test(name)

/** What a step uses of a network a part at a time. */
export type NetworkAccess = BlockAccess & {
  /** Waits for the heads, which the network has from then on; they travel from the first use of a block on. */
  readonly heads: () => void
  /** Takes over the gradients of heads, which the network no longer has: they travel while blocks compute. */
  readonly headGradients: (grads: ParamMap) => void
  /** The shape of a parameter, whether it is there or not; undefined for other names. */
  readonly shapeOf: (name: string) => readonly number[] | undefined
}

/** A network while a step uses it: embedding and final norm, blocks one at a time, and heads when they are there. */
export type LentNetwork<N> = {
  readonly network: N
  readonly access: NetworkAccess
  /** Waits for the gradients that are under way, and lets go of what was gathered. */
  readonly dispose: () => void
}

export class Sharding {
  /** Whether blocks travel while others compute; `bench/processes` measures what that gains by leaving it out. */
  static overlaps = true

  readonly #shapes: ReadonlyMap<string, readonly number[]>
  /** Checksums of the whole tensors that this process was given, by their names in a checkpoint. */
  readonly #given = new Map<string, string>()

  constructor(
    private readonly processes: Processes,
    private readonly precision: Precision,
    /** Any full network with the shapes of the run. */
    full: ParamMap
  ) {
    this.#shapes = new Map([...full].map(([name, leaf]) => [name, leaf.shape]))
  }

  /** The pieces of this process of a student; consumes the whole tensors. */
  shard(full: ParamMap): ParamMap {
    const own: ParamMap = new Map()
    for (const [name, leaf] of full) {
      this.#given.set(`student.${name}`, checksumOf(leaf))
      own.set(name, this.#piece(leaf))
      dispose(leaf)
    }
    return own
  }

  /** A network for a step, from the pieces of its parameters. `onGradients` takes over summed pieces of gradients. */
  lend<N extends {backbone: Vit}>(pieces: ParamMap, onGradients?: (grads: ParamMap) => void): LentNetwork<N> {
    const named = (wanted: (name: string) => boolean): string[] => [...pieces.keys()].filter(wanted)
    const embedding = named(name => name.startsWith('backbone.') && !name.startsWith('backbone.blocks.'))
    const gathered = this.#beginGather(pieces, embedding, 'fp32').wait()
    const network = unflatten<N>([...gathered])
    network.backbone.blocks ??= []
    const coming = new Map<number, PendingMap>()
    const blockOf = (i: number): PendingMap =>
      coming.get(i) ??
      this.#beginGather(
        pieces,
        named(name => name.startsWith(`backbone.blocks.${i}.`)),
        this.precision
      )
    const {overlaps} = Sharding
    let sums: PendingMap | undefined
    const finishSums = (): void => {
      if (sums) onGradients?.(sums.wait())
      sums = undefined
    }
    const heads = new LentHeads(
      network,
      named(name => !name.startsWith('backbone.')),
      {
        gather: names => this.#beginGather(pieces, names, 'fp32'),
        scatter: grads => this.#beginScatter(grads, 'fp32'),
        onGradients
      }
    )
    return {
      network,
      access: {
        use: (i, work, next) => {
          const block = blockOf(i).wait()
          coming.delete(i)
          if (next !== undefined && overlaps) coming.set(next, blockOf(next))
          if (overlaps) heads.begin()
          try {
            return work(unflatten<{backbone: {blocks: Record<number, Block>}}>([...block]).backbone.blocks[i]!)
          } finally {
            dispose([...block.values()])
          }
        },
        gradients: (i, grads) => {
          finishSums()
          sums = this.#beginScatter(
            new Map([...flatten(grads)].map(([name, grad]) => [`backbone.blocks.${i}.${name}`, grad])),
            this.precision
          )
          if (!overlaps) finishSums()
        },
        heads: () => heads.arrive(),
        headGradients: grads => {
          heads.send(grads)
          if (!overlaps) heads.finish()
        },
        shapeOf: name => this.#shapes.get(name)
      },
      dispose: () => {
        finishSums()
        heads.finish()
        dispose([...gathered.values()])
      }
    }
  }

  /** Sums gradients over the processes and keeps the pieces of this one. Consumes the gradients. */
  scatter(grads: ParamMap): ParamMap {
    return this.#beginScatter(grads, 'fp32').wait()
  }

  /** Begins `scatter`, with the gradients of linear layers of blocks in `precision` on the way. */
  #beginScatter(grads: ParamMap, precision: Precision): PendingMap {
    const {size} = this.processes
    const under = groupsOf([...grads.keys()], precision).map(([names, as]) => {
      const widths = names.map(name => this.#width(name))
      const rows = tidy(() => {
        const own = names.map((name, i) => reshape(padded(grads.get(name)!, widths[i]! * size), [size, widths[i]!]) as Tensor2D)
        return cast(concat(own, 1), as)
      }) // [n, sum of widths]
      dispose(names.map(name => grads.get(name)!))
      const pending = beginExchangeOfRows(rows, this.processes)
      dispose(rows)
      return {names, widths, pending}
    })
    return {
      wait: () => {
        const own: ParamMap = new Map()
        for (const {names, widths, pending} of under) {
          const all = pending.wait() // [n, sum of widths]
          const total = tidy(() => sum<Tensor1D>(cast(all, 'fp32'), 0)) // [sum of widths]
          dispose(all)
          let from = 0
          names.forEach((name, i) => {
            const at = from
            own.set(
              name,
              tidy(() => mul(slice(total, [at], [widths[i]!]), scalar(1)))
            )
            from += widths[i]!
          })
          dispose(total)
        }
        return own
      }
    }
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

  /** The places of maps of pieces, by `group.name`. */
  stateDictOf(groups: Readonly<Record<string, ParamMap>>): Map<string, TensorSlot> {
    return new Map(
      Object.entries(groups).flatMap(([group, pieces]) =>
        [...pieces.keys()].map(name => [`${group}.${name}`, this.#slot(name, pieces, `${group}.${name}`)] as const)
      )
    )
  }

  /** All tensors whole, in the memory of the machine; all processes call it at the same time. */
  wholeOnHost(pieces: ParamMap): Map<string, HostTensor> {
    return new Map(
      [...pieces.keys()].map(name => {
        const {shape, read} = this.#slot(name, pieces, name)
        const values = read!()
        return [name, {shape: shape!, data: async () => values}]
      })
    )
  }

  /** The place of a sharded tensor in a checkpoint: whole when it is read, which all processes do at the same time. */
  #slot(name: string, pieces: ParamMap, place: string): TensorSlot {
    return {
      shape: this.#shapes.get(name)!,
      get: () => pieces.get(name)!,
      read: () => {
        const [whole] = this.#beginGather(pieces, [name], 'fp32').wait().values()
        const values = whole!.dataSync() as Float32Array
        dispose(whole!)
        return values
      },
      checksum: () => this.#given.get(place),
      put: value => {
        this.#given.set(place, checksumOf(value))
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
    return tidy(() => mul(slice(padded(leaf, width * size), [rank * width], [width]), scalar(1))) // numbers of its own, not a view; -0 stays
  }

  /** Begins to gather whole tensors of these names; linear layers of blocks in `precision`. */
  #beginGather(pieces: ParamMap, names: readonly string[], precision: Precision): PendingMap {
    const {size} = this.processes
    const under = groupsOf(names, precision).map(([group, as]) => {
      const own = tidy(() => reshape(concat(group.map(name => cast(pieces.get(name) as Tensor1D, as))), [1, -1]) as Tensor2D)
      const pending = beginGather(own, this.processes)
      dispose(own)
      return {group, pending}
    })
    return {
      wait: () => {
        const found: ParamMap = new Map()
        for (const {group, pending} of under) {
          const all = pending.wait() // [n, sum of widths]
          let from = 0
          for (const name of group) {
            const [width, at, shape] = [this.#width(name), from, this.#shapes.get(name)!]
            const length = shape.reduce((a, b) => a * b, 1)
            found.set(
              name,
              tidy(() => reshape(slice(reshape(slice(all, [0, at], [size, width]), [-1]), [0], [length]), [...shape]))
            )
            from += width
          }
          dispose(all)
        }
        return new Map(names.map(name => [name, found.get(name)!]))
      }
    }
  }
}

/** Names by the type in which their tensors travel: linear layers of blocks in `precision`, all else in float32. */
function groupsOf(names: readonly string[], precision: Precision): (readonly [names: readonly string[], as: Precision])[] {
  const low = bytesOfNumber(precision) === 4 ? [] : names.filter(isProduct)
  const groups = [
    [names.filter(name => !low.includes(name)), 'fp32'],
    [low, precision]
  ] as const
  return groups.filter(([group]) => group.length > 0)
}

/** A tensor flat, with zeros behind it up to `length`. */
const padded = (leaf: Tensor, length: number): Tensor1D =>
  leaf.size === length ? (reshape(leaf, [-1]) as Tensor1D) : (pad(reshape(leaf, [-1]) as Tensor1D, [[0, length - leaf.size]]) as Tensor1D)
