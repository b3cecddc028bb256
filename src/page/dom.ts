/** Parts of the page by name, and new ones. */

/** The element of an id, which index.html has. */
export function byId<T extends HTMLElement = HTMLElement>(id: string): T {
  const found = document.getElementById(id)
  if (!found) throw new Error(`index.html has no element ${id}`)
  return found as T
}

/** A new element with text or children; `undefined` children are left out. */
export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Readonly<Record<string, string>> = {},
  ...children: readonly (Node | string | undefined)[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value)
  element.append(...children.filter(child => child !== undefined))
  return element
}

/** The last part of a path. */
export const fileName = (path: string): string => path.split('/').at(-1) ?? path
