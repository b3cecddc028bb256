/** The settings that the benchmarks of several processes train with: blocks of a given size, crops of 112 and 56. */
import {writeFileSync} from 'node:fs'
import {join} from 'node:path'

/** Writes the settings as `recipe.yaml` into `folder`. → its path */
export function writeBlockRecipe(folder: string, {width, depth, epoch}: {width: number; depth: number; epoch: number}): string {
  const path = join(folder, 'recipe.yaml')
  writeFileSync(
    path,
    `
dino: {head_n_prototypes: 4096, head_bottleneck_dim: 256, head_hidden_dim: 1024}
train: {OFFICIAL_EPOCH_LENGTH: ${epoch}, log_every: 1, workers: 1, centering: sinkhorn_knopp, checkpoint_every: 1000000}
student: {arch: custom, embed_dim: ${width}, depth: ${depth}, num_heads: ${width / 64}, patch_size: 14}
optim: {epochs: 1, warmup_epochs: 0, freeze_last_layer_epochs: 0}
crops: {local_crops_number: 4, global_crops_size: 112, local_crops_size: 56}
`
  )
  return path
}
