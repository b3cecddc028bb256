/**
 * Trees of tensors: parameters, gradients and moments as plain nested objects and arrays, keys exactly those of Meta's
 * checkpoints.
 *
 * The path of a leaf is its keys joined by dots (`blocks.3.attn.qkv.weight`), which is its name in a file. Types of
 * trees are `type` aliases, never interfaces: only aliases satisfy TensorFlow.js's `TensorContainer`.
 */
import {Tensor, dispose} from './tf.js'

export type Tree = Tensor | (Tree | undefined)[] | {[key: string]: Tree | undefined}

/** Yields every leaf with its path, in the order of the keys; numbers count as numbers. */
export function* leaves(tree: Tree, path = ''): Generator<[name: string, leaf: Tensor]> {
  if (tree instanceof Tensor) {
    yield [path, tree]
    return
  }
  for (const [key, child] of Object.entries(tree)) if (child !== undefined) yield* leaves(child, path ? `${path}.${key}` : key)
}

/** All leaves by path. */
export const flatten = (tree: Tree): Map<string, Tensor> => new Map(leaves(tree))

/** A tree of the same form whose leaf at each path is `make(leaf, path)`. */
export function map<T extends Tree>(tree: T, make: (leaf: Tensor, path: string) => Tensor, path = ''): T {
  if (tree instanceof Tensor) return make(tree, path) as T
  const at = (key: string): string => (path ? `${path}.${key}` : key)
  if (Array.isArray(tree)) return tree.map((child, i) => (child === undefined ? child : map(child, make, at(String(i))))) as T
  return Object.fromEntries(
    Object.entries(tree).flatMap(([key, child]) => (child === undefined ? [] : [[key, map(child, make, at(key))]]))
  ) as T
}

/** Builds a tree from leaves by path: keys that are whole numbers become arrays. */
export function unflatten<T extends Tree>(named: Iterable<readonly [name: string, leaf: Tensor]>): T {
  const root: Record<string, unknown> = {}
  for (const [name, leaf] of named) {
    const keys = name.split('.')
    let node = root
    for (const key of keys.slice(0, -1)) {
      if (!Object.hasOwn(node, key)) Object.defineProperty(node, key, {value: {}, enumerable: true, writable: true}) // a name may be __proto__
      node = node[key] as Record<string, unknown>
    }
    node[keys[keys.length - 1]!] = leaf
  }
  const settle = (node: unknown): unknown => {
    if (node instanceof Tensor) return node
    const entries = Object.entries(node as Record<string, unknown>)
    if (entries.length > 0 && entries.every(([key]) => /^\d+$/.test(key))) {
      const list: unknown[] = []
      for (const [key, child] of entries) list[Number(key)] = settle(child)
      return list
    }
    return Object.fromEntries(entries.map(([key, child]) => [key, settle(child)]))
  }
  return settle(root) as T
}

/** Lets every leaf go. */
export const disposeTree = (tree: Tree): void => {
  for (const [, leaf] of leaves(tree)) dispose(leaf)
}

/** How many numbers a tree holds. */
export const count = (tree: Tree): number => {
  let total = 0
  for (const [, leaf] of leaves(tree)) total += leaf.size
  return total
}
