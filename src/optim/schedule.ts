/** Values that change with the step (spec §2.7). Pure functions of the step; nothing is stored, so any step can be asked at once. */

export type Cosine = {
  readonly base: number
  readonly final: number
  /** Steps of the whole schedule. */
  readonly total: number
  /** Steps of linear warm-up from `start`; the last of them has the base value. */
  readonly warmup?: number
  readonly start?: number
  /** Steps held at zero before anything else. */
  readonly freeze?: number
}

/** Zeros, then a linear warm-up inclusive of its end, then half a cosine from base to final, then final for ever. */
export function cosine({base, final, total, warmup = 0, start = 0, freeze = 0}: Cosine, step: number): number {
  if (step >= total) return final
  if (step < freeze) return 0
  if (step < freeze + warmup) return warmup === 1 ? start : start + ((base - start) * (step - freeze)) / (warmup - 1)
  const n = total - freeze - warmup
  return final + 0.5 * (base - final) * (1 + Math.cos((Math.PI * (step - freeze - warmup)) / n))
}
