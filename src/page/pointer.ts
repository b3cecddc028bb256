/** How the map is moved: mouse, fingers, wheel and keys. */
import type {LassoLine} from './draw.js'
import {moved, wholeView, zoomed, type ViewSize, type View} from './view.js'

export type MapHands = {
  readonly size: () => ViewSize
  readonly view: () => View
  readonly setView: (view: View) => void
  readonly isLasso: () => boolean
  /** A click, and how far from it the point may lie. */
  readonly onPick: (x: number, y: number, reach: number) => void
  /** A lasso that grows, and one that is closed. */
  readonly onLasso: (line: LassoLine, closed: boolean) => void
}

/** Pixels that a press may move and still be a click. */
const CLICK = 5
/** Pixels from a click to the point that it picks, at most. */
const REACH = 28

/** Listens to everything that moves the map. */
export function listen(canvas: HTMLCanvasElement, hands: MapHands): void {
  const pointers = new Map<number, {x: number; y: number}>()
  let [travelled, spread] = [0, 0]
  let line: [number, number][] = []
  const at = (event: PointerEvent | WheelEvent): {x: number; y: number} => {
    const box = canvas.getBoundingClientRect()
    return {x: event.clientX - box.left, y: event.clientY - box.top}
  }
  const distance = (): number => {
    const [a, b] = [...pointers.values()]
    return a && b ? Math.hypot(a.x - b.x, a.y - b.y) : 0
  }
  canvas.addEventListener('pointerdown', event => {
    canvas.setPointerCapture(event.pointerId)
    pointers.set(event.pointerId, at(event))
    ;[travelled, spread] = [0, distance()]
    const {x, y} = at(event)
    line = [[x, y]]
  })
  canvas.addEventListener('pointermove', event => {
    const before = pointers.get(event.pointerId)
    if (!before) return
    const now = at(event)
    pointers.set(event.pointerId, now)
    travelled += Math.abs(now.x - before.x) + Math.abs(now.y - before.y)
    if (pointers.size === 2) {
      const wide = distance()
      const [a, b] = [...pointers.values()] as [{x: number; y: number}, {x: number; y: number}]
      if (spread > 0) hands.setView(zoomed(hands.view(), hands.size(), wide / spread, (a.x + b.x) / 2, (a.y + b.y) / 2))
      spread = wide
    } else if (hands.isLasso() || event.shiftKey) {
      line.push([now.x, now.y])
      hands.onLasso(line, false)
    } else hands.setView(moved(hands.view(), now.x - before.x, now.y - before.y))
  })
  const end = (event: PointerEvent): void => {
    if (!pointers.delete(event.pointerId)) return
    if (line.length > 2) hands.onLasso(line, true)
    else if (travelled < CLICK && event.type === 'pointerup') hands.onPick(at(event).x, at(event).y, REACH)
    line = []
    spread = 0
  }
  canvas.addEventListener('pointerup', end)
  canvas.addEventListener('pointercancel', end)
  canvas.addEventListener(
    'wheel',
    event => {
      event.preventDefault()
      const {x, y} = at(event)
      hands.setView(zoomed(hands.view(), hands.size(), Math.exp(-event.deltaY * (event.deltaMode === 1 ? 0.05 : 0.0015)), x, y))
    },
    {passive: false}
  )
  canvas.addEventListener('keydown', event => {
    const {width, height} = hands.size()
    const step = Math.min(width, height) / 6
    const keys: Readonly<Record<string, () => void>> = {
      ArrowLeft: () => hands.setView(moved(hands.view(), step, 0)),
      ArrowRight: () => hands.setView(moved(hands.view(), -step, 0)),
      ArrowUp: () => hands.setView(moved(hands.view(), 0, step)),
      ArrowDown: () => hands.setView(moved(hands.view(), 0, -step)),
      '+': () => hands.setView(zoomed(hands.view(), hands.size(), 1.5, width / 2, height / 2)),
      '=': () => hands.setView(zoomed(hands.view(), hands.size(), 1.5, width / 2, height / 2)),
      '-': () => hands.setView(zoomed(hands.view(), hands.size(), 1 / 1.5, width / 2, height / 2)),
      '0': () => hands.setView(wholeView(hands.size())),
      Enter: () => hands.onPick(width / 2, height / 2, Infinity)
    }
    const action = event.ctrlKey || event.metaKey || event.altKey ? undefined : keys[event.key]
    if (!action) return
    event.preventDefault()
    action()
  })
}
