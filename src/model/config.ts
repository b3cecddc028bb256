/**
 * What has to be known of a backbone besides its weights. Spec: DINOv2 paper, table 17; sizes are those of the
 * released models.
 */

/**
 * The shape of a vision transformer and how its positions are resampled. All lengths are counts; nothing here holds a
 * tensor.
 */
export type VitConfig = {
  /** Embedding width C. */
  readonly width: number
  /** Number of blocks L. */
  readonly depth: number
  /** Attention heads; width / heads is the head dimension (64 in every released model). */
  readonly heads: number
  /** Side of a patch in pixels. */
  readonly patch: number
  readonly ffn: 'mlp' | 'swiglu'
  /** Hidden width of the feed-forward layer (for swiglu: of one half). */
  readonly hidden: number
  /** Register tokens, 0 or more. */
  readonly registers: number
  /** Side M of the stored position grid (37 for 518 px at patch 14). */
  readonly grid: number
  /** Whether the blocks carry LayerScale vectors. */
  readonly layerScale: boolean
  /** 0.1: scale factors (grid + 0.1) / M (models without registers); 0: output sizes (register models). */
  readonly interpolateOffset: number
  /** Antialiased cubic resampling of positions (register models). */
  readonly interpolateAntialias: boolean
}
