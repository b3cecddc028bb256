/**
 * The heads of a network whose parameters are spread over the processes, while a step uses it: gathered once, beside
 * the blocks before them, and let go when their gradients are sent, beside the backward pass.
 */
import type {ParamMap} from '../../optim/adamw.js'
import {dispose} from '../../tensor/tf.js'
import {unflatten} from '../../tensor/tree.js'

/** Tensors by name that are under way; `wait` gives them to the caller, once. */
export type PendingMap = {readonly wait: () => ParamMap}

/** The part of a network that a parameter belongs to: `backbone`, or a head. */
export const unitOf = (name: string): string => name.slice(0, name.indexOf('.'))

type Transport = {
  readonly gather: (names: readonly string[]) => PendingMap
  /** Consumes the gradients. */
  readonly scatter: (grads: ParamMap) => PendingMap
  /** Takes over summed pieces of gradients. */
  readonly onGradients: ((grads: ParamMap) => void) | undefined
}

export class LentHeads {
  #coming: PendingMap | undefined
  #held: ParamMap | undefined
  #sums: PendingMap[] = []

  constructor(
    /** Has the heads as its keys while they are there. */
    private readonly network: object,
    private readonly names: readonly string[],
    private readonly transport: Transport
  ) {}

  /** Lets the heads come, once in a step. */
  begin(): void {
    if (!this.#held) this.#coming ??= this.transport.gather(this.names)
  }

  /** Waits for the heads, which the network has from then on. */
  arrive(): void {
    this.begin()
    if (!this.#coming) return
    this.#held = this.#coming.wait()
    this.#coming = undefined
    Object.assign(this.network, unflatten([...this.#held]))
  }

  /** Begins to sum the gradients of heads, which it consumes; the network has no heads any more. */
  send(grads: ParamMap): void {
    this.#letGo()
    for (const unit of new Set(this.names.map(unitOf)))
      this.#sums.push(this.transport.scatter(new Map([...grads].filter(([name]) => unitOf(name) === unit))))
  }

  /** Waits for what is under way, and lets the heads go. */
  finish(): void {
    for (const sums of this.#sums) this.transport.onGradients?.(sums.wait())
    this.#sums = []
    if (this.#coming || this.#held) this.#letGo()
  }

  #letGo(): void {
    this.arrive()
    for (const name of this.names) delete (this.network as Record<string, unknown>)[unitOf(name)]
    dispose([...this.#held!.values()])
    this.#held = new Map()
  }
}
