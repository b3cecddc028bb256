/**
 * A sum of tensors [K, D] that arrive piece by piece, rows at a time, and maybe several times over: the gradient of
 * the prototypes.
 *
 * Where the engine can add in place, the sum exists once and nothing beside it. Elsewhere the pieces are kept and
 * joined at the end; they must then come with the same borders each time.
 */
import {add, concat, dispose, fill, keep, tidy} from '../tf.js'
import type {Tensor, Tensor2D} from '../tf.js'
import {callInPlaceKernel} from './in-place.js'
import {hasKernel} from './kernel.js'

export class RowSum {
  private sum: Tensor2D | undefined
  private readonly chunks = new Map<number, Tensor2D>()

  constructor(private readonly shape: readonly [number, number]) {}

  /** Adds a piece [k, D] to the rows from `start` on. The piece stays the caller's. */
  add(start: number, chunk: Tensor2D): void {
    if (hasKernel('Dinov2AddAt')) {
      this.sum ??= keep(fill(this.shape as [number, number], 0) as Tensor2D) // not `zeros`, which are written in JavaScript and copied
      callInPlaceKernel('Dinov2AddAt', {into: [this.sum], piece: [chunk]}, {start})
      return
    }
    const before = this.chunks.get(start)
    this.chunks.set(start, keep(before ? tidy(() => add<Tensor2D>(before, chunk)) : chunk.clone()))
    if (before) dispose(before)
  }

  /** The sum, the caller's from now on; undefined where nothing was added. */
  take(): Tensor2D | undefined {
    if (this.sum || this.chunks.size === 0) return this.sum
    const parts = [...this.chunks].sort(([a], [b]) => a - b).map(([, chunk]) => chunk)
    const all = keep(concat(parts, 0))
    dispose(parts)
    return all
  }
}

/** Adds each tensor of `more` to its partner, in place where the engine can. Consumes both lists; returns the sums. */
export function addAll(into: readonly Tensor[], more: readonly Tensor[]): Tensor[] {
  if (into.length === 0) return []
  if (callInPlaceKernel('Dinov2AddAll', {into, more})) {
    dispose([...more])
    return [...into]
  }
  return into.map((tensor, i) => {
    const sum = keep(tidy(() => add(tensor, more[i]!)))
    dispose([tensor, more[i]!])
    return sum
  })
}
