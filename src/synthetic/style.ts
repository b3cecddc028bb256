/** How widely drawn scenes vary beside their class. */

type Bounds = readonly [least: number, most: number]

export type Style = {
  /**
   * Each class has two hues, which it shares with the other classes of its palette; all else is dull. Absent: any
   * colour may be anywhere.
   */
  readonly palettes?: {
    readonly count: number
    /** Saturation of the hues of a class, and of everything else. */
    readonly vivid: Bounds
    readonly dull: Bounds
  }
  /** Grounds and walls are of one colour; textures occur only where they are the class. */
  readonly plainGrounds: boolean
  /** Part of the height of the frame that the thing takes. */
  readonly fill: Bounds
  /** Small things of no class lie about. */
  readonly clutter: boolean
  /** Most shift of the light towards red or blue. */
  readonly warmth: number
  /** Exposure for a number drawn evenly from 0 to 1. */
  readonly exposure: (drawn: number) => number
}

/**
 * `plain`: large things on plain grounds, in light of any strength and warmth, in eight palettes of two classes each.
 * The light hides the palette from a comparison of pixels; shape or texture separates the two classes of a palette.
 * `hard`: any colour anywhere, textured grounds and clutter, in which small recipes learn to sort images by colour and
 * need far more training.
 */
export const STYLES = {
  plain: {
    palettes: {count: 8, vivid: [0.4, 0.9], dull: [0.02, 0.3]},
    plainGrounds: true,
    fill: [0.8, 1.15],
    clutter: false,
    warmth: 0.35,
    exposure: drawn => Math.exp(-0.75 + 1.25 * drawn)
  },
  hard: {plainGrounds: false, fill: [0.62, 1.15], clutter: true, warmth: 0.2, exposure: drawn => 0.75 + (1.3 - 0.75) * drawn}
} as const satisfies Readonly<Record<string, Style>>

export type StyleName = keyof typeof STYLES
