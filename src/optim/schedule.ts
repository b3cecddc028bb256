/**
 * Values that change with the step (docs/spec.md §2.7). Pure functions of the step; nothing is stored, so any step can
 * be asked at once.
 */

export type Cosine = {
  readonly base: number
  readonly final: number
  /** Steps of the whole schedule. */
  readonly total: number
  /** Steps of linear warm-up from `start`; the last of them has the base value. */
  readonly warmup?: number
  readonly start?: number
  /** First steps that are set to zero (the last layer's); they do not shift the rest. */
  readonly frozen?: number
}

/**
 * A linear warm-up inclusive of its end, then half a cosine from base to final, then final for ever; zero while
 * frozen.
 */
export function cosine({base, final, total, warmup = 0, start = 0, frozen = 0}: Cosine, step: number): number {
  if (step < frozen) return 0
  if (step >= total) return final
  if (step < warmup) return warmup === 1 ? start : start + ((base - start) * step) / (warmup - 1)
  return final + 0.5 * (base - final) * (1 + Math.cos((Math.PI * (step - warmup)) / (total - warmup)))
}
