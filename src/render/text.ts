/**
 * Text in pictures, in a font of its own: letters of 5 × 8 dots, so that a picture has the same bytes on every
 * machine, whichever fonts are installed. Letters with accents lose them; other scripts become empty boxes.
 */
import type {Raster} from '../data/image/resample.js'

/** Each letter with its eight rows from above; a row is a digit in base 32, whose highest bit is the left dot. */
const LETTERS = `
! 44444040  " aaa00000  # aavavaa0  $ 4fke5u40  % op248j30  & cik8lid0  ' 44800000  ( 24888420  ) 84222480  * 04lel400
+ 044v4400  , 00000c48  - 000e0000  . 00000cc0  / 01248g00  0 ehjlphe0  1 4c4444e0  2 eh1248v0  3 v2421he0  4 26aiv220
5 vgu11he0  6 68guhhe0  7 v1248880  8 ehhehhe0  9 ehhf12c0  : 0cc0cc00  ; 0cc0c480  < 248g8420  = 00v0v000  > 84212480
? eh124040  @ eh1dlle0  A ehhvhhh0  B uhhuhhu0  C ehggghe0  D sihhhis0  E vgguggv0  F vgguggg0  G ehgnhhf0  H hhhvhhh0
I e44444e0  J 72222ic0  K hikokih0  L ggggggv0  M hrllhhh0  N hhpljhh0  O ehhhhhe0  P uhhuggg0  Q ehhhlid0  R uhhukih0
S fgge11u0  T v4444440  U hhhhhhe0  V hhhhha40  W hhhllla0  X hha4ahh0  Y hhha4440  Z v1248gv0  [ e88888e0  \\ 0g842100
] e22222e0  ^ 4ah00000  _ 0000000v  \` 84200000  a 00e1fhf0  b ggmphhu0  c 00egghe0  d 11djhhf0  e 00ehvge0  f 698s8880
g 00fhhf1e  h ggmphhh0  i 40c444e0  j 2062222c  k ggikoki0  l c44444e0  m 00qllhh0  n 00mphhh0  o 00ehhhe0  p 00uhhugg
q 00djhf11  r 00mpggg0  s 00ege1u0  t 88s88960  u 00hhhjd0  v 00hhha40  w 00hhlla0  x 00ha4ah0  y 00hhhf1e  z 00v248v0
{ 24484420  | 44444440  } 84424480  ~ 008l2000  … 000000l0  – 000v0000  − 000v0000  × 0ha4ah00  · 00040000  ° 4a400000
`
const FONT = new Map(
  LETTERS.trim()
    .split(/\s{2,}|\n/)
    .map(entry => [entry.slice(0, 1), [...entry.slice(2)].map(digit => Number.parseInt(digit, 32))])
)
const UNKNOWN = [31, 17, 17, 17, 17, 17, 31, 0]

const [COLUMNS, ROWS, ADVANCE] = [5, 8, 6]

export type TextColor = readonly [red: number, green: number, blue: number]
const INK: TextColor = [48, 52, 58]

/** The height of a line in pixels; `scale` is the side of a dot. */
export const lineHeight = (scale: number): number => (ROWS + 2) * scale

/** The characters as they are drawn: accents apart from their letters are left out. */
const characters = (text: string): string[] => [...text.normalize('NFD').replace(/\p{M}/gu, '')]

/** The width in pixels of a text in one line. */
export const textWidth = (text: string, scale: number): number => Math.max(0, characters(text).length * ADVANCE - 1) * scale

/** The text where it fits into `width` pixels, else its beginning and its end with … between them. */
export function shortened(text: string, width: number, scale: number): string {
  const all = characters(text)
  const most = Math.floor((width / scale + 1) / ADVANCE)
  if (all.length <= most) return all.join('')
  if (most < 2) return ''
  const head = Math.ceil((most - 1) / 2)
  return `${all.slice(0, head).join('')}…${all.slice(all.length - (most - 1 - head)).join('')}`
}

/** Writes one line, the upper left corner of its first letter at (x, y). Dots outside of the picture are left out. */
export function drawText({width, height, data}: Raster, text: string, {x, y, scale, color = INK}: TextPlace): void {
  for (const [i, character] of characters(text).entries()) {
    const rows = character === ' ' ? [] : (FONT.get(character) ?? UNKNOWN)
    for (const [row, bits] of rows.entries())
      for (let column = 0; column < COLUMNS; column++) {
        if (!(bits & (16 >> column))) continue
        const [left, top] = [x + (i * ADVANCE + column) * scale, y + row * scale]
        for (let down = Math.max(0, top); down < Math.min(height, top + scale); down++)
          for (let across = Math.max(0, left); across < Math.min(width, left + scale); across++)
            data.set(color, (down * width + across) * 3)
      }
  }
}

export type TextPlace = {
  readonly x: number
  readonly y: number
  /** Side of a dot in pixels. */
  readonly scale: number
  readonly color?: TextColor
}
