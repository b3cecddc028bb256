/**
 * Which learning rate and weight decay each parameter gets, by its name (docs/spec.md §2.6). First rule that matches
 * wins.
 */

export type ParamGroup = {
  /** Factor on the learning rate. */
  readonly lr: number
  /** Factor on the weight decay: 0 or 1. */
  readonly wd: number
  /** Whether the schedule of the last layer applies. */
  readonly last: boolean
}

export type GroupRules = {
  /** Blocks of the backbone. */
  readonly depth: number
  readonly layerwiseDecay: number
  readonly patchEmbedLrMult: number
}

/** The group of a parameter such as `backbone.blocks.3.attn.qkv.weight` or `dino_head.last_layer.weight_g`. */
export function paramGroup(name: string, {depth, layerwiseDecay, patchEmbedLrMult}: GroupRules): ParamGroup {
  const bare = name.startsWith('backbone.') ? name.slice('backbone.'.length) : undefined
  const layer = bare === undefined ? depth + 1 : layerOf(bare, depth)
  const decay = layerwiseDecay ** (depth + 1 - layer)
  return {
    lr: bare?.startsWith('patch_embed') ? decay * patchEmbedLrMult : decay,
    wd: name.endsWith('.bias') || name.includes('norm') || name.includes('gamma') ? 0 : 1,
    last: name.includes('last_layer')
  }
}

/** 0 for what comes before the blocks, i + 1 for block i, depth + 1 for the rest. */
function layerOf(name: string, depth: number): number {
  if (/^(pos_embed|patch_embed|cls_token|mask_token|register_tokens)/.test(name)) return 0
  const block = /^blocks\.(\d+)\./.exec(name)
  return block ? Number(block[1]) + 1 : depth + 1
}
