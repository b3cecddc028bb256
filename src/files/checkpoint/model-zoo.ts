/**
 * The models that Meta released with DINOv2, by the names of torch.hub and of the files.
 *
 * Backbones come without and with four registers; heads are small and sit on a frozen backbone. Names and addresses
 * follow one pattern, which is that of the hub code; the table of the original README has some wrong addresses.
 * Lengths and checksums are given where they are known; all else is checked against what the server says.
 */

import {homedir} from 'node:os'
import {isAbsolute, join} from 'node:path'
import {fileURLToPath} from 'node:url'

export type Released = {
  /**
   * As in torch.hub for backbones, e.g. `dinov2_vits14_reg`; the file's name without `_pretrain.pth` or `_head.pth`
   * for the rest.
   */
  readonly name: string
  readonly kind: 'backbone' | 'classifier' | 'depth' | 'segmentation'
  /** The backbone that a head sits on. */
  readonly backbone: string
  readonly registers: 0 | 4
  readonly file: string
  /** Path below the base address. */
  readonly path: string
  readonly bytes?: number
  readonly sha256?: string
  readonly licence: 'Apache-2.0'
  readonly about: string
}

/** The name of the small model that comes with the program. */
export const STARTER = 'starter'

const inPackage = (folder: string): string => fileURLToPath(new URL(`../../../../models/${folder}/backbone.safetensors`, import.meta.url))

/** The models that come with the program, by name, and where they lie; the card of each is beside it. */
export const starterFiles: ReadonlyMap<string, string> = new Map([STARTER, `${STARTER}-wide`].map(name => [name, inPackage(name)]))

/** Where the files lie; `path` of an entry follows. */
export const RELEASED_BASE = 'https://dl.fbaipublicfiles.com/dinov2'

const sizes = {
  s: 'ViT-S/14, 22 M parameters',
  b: 'ViT-B/14, 87 M parameters',
  l: 'ViT-L/14, 304 M parameters',
  g: 'ViT-g/14, 1.1 G parameters'
} as const

const known: Readonly<Record<string, {bytes: number; sha256?: string}>> = {
  'dinov2_vits14_pretrain.pth': {bytes: 88283115, sha256: 'b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9'},
  'dinov2_vitb14_pretrain.pth': {bytes: 346378731, sha256: '0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73'},
  'dinov2_vitl14_pretrain.pth': {bytes: 1217586395, sha256: 'd5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428'},
  'dinov2_vitg14_pretrain.pth': {bytes: 4546108579},
  'dinov2_vits14_linear_head.pth': {bytes: 3077159},
  'dinov2_vits14_nyu_linear_head.pth': {bytes: 2367211},
  'dinov2_vits14_ade20k_linear_head.pth': {bytes: 719673}
}

function* all(): Generator<Released> {
  const entry = (folder: string, file: string, rest: Pick<Released, 'name' | 'kind' | 'backbone' | 'registers' | 'about'>): Released => ({
    ...rest,
    file,
    path: `${folder}/${file}`,
    ...known[file],
    licence: 'Apache-2.0'
  })
  const letters = Object.keys(sizes) as (keyof typeof sizes)[]
  for (const registers of [0, 4] as const)
    for (const letter of letters) {
      const base = `dinov2_vit${letter}14`
      const backbone = registers ? `${base}_reg` : base
      yield entry(base, `${base}${registers ? '_reg4' : ''}_pretrain.pth`, {
        name: backbone,
        kind: 'backbone',
        backbone,
        registers,
        about: `${sizes[letter]}${registers ? ', 4 registers' : ''}`
      })
    }
  for (const registers of [0, 4] as const)
    for (const letter of letters) {
      const base = `dinov2_vit${letter}14`
      const full = registers ? `${base}_reg4` : base
      for (const layers of [1, 4]) {
        const name = `${full}_linear${layers === 4 ? '4' : ''}`
        yield entry(base, `${name}_head.pth`, {
          name,
          kind: 'classifier',
          backbone: registers ? `${base}_reg` : base,
          registers,
          about: `ImageNet-1k classes, linear on ${layers === 4 ? 'the last 4 layers' : 'the last layer'}`
        })
      }
    }
  for (const letter of letters) {
    const base = `dinov2_vit${letter}14`
    for (const set of ['nyu', 'kitti'] as const)
      for (const head of ['linear', 'linear4', 'dpt'] as const) {
        const name = `${base}_${set}_${head}`
        const form = {linear: 'linear on the last layer', linear4: 'linear on 4 layers', dpt: 'DPT'}[head]
        yield entry(base, `${name}_head.pth`, {
          name,
          kind: 'depth',
          backbone: base,
          registers: 0,
          about: `depth, ${set === 'nyu' ? 'NYU Depth v2' : 'KITTI'}, ${form}`
        })
      }
  }
  for (const letter of letters) {
    const base = `dinov2_vit${letter}14`
    for (const set of ['ade20k', 'voc2012'] as const)
      for (const head of ['linear', 'ms'] as const) {
        const name = `${base}_${set}_${head}`
        yield entry(base, `${name}_head.pth`, {
          name,
          kind: 'segmentation',
          backbone: base,
          registers: 0,
          about: `segmentation, ${set === 'ade20k' ? 'ADE20K' : 'VOC 2012'}, linear${head === 'ms' ? ' on 4 layers, multi-scale' : ''}`
        })
      }
  }
  yield entry('dinov2_vitg14', 'dinov2_vitg14_ade20k_m2f.pth', {
    name: 'dinov2_vitg14_ade20k_m2f',
    kind: 'segmentation',
    backbone: 'dinov2_vitg14',
    registers: 0,
    about: 'segmentation, ADE20K, Mask2Former with its own adapted backbone'
  })
}

/** Every released file, backbones first. */
export const released: readonly Released[] = [...all()]

/** The names that `--model` takes besides files and folders. */
export const modelNames: readonly string[] = [...starterFiles.keys(), ...released.map(({name}) => name)]

/** By name, by file name, or by file name without its ending. */
export const findReleased = (name: string): Released | undefined =>
  released.find(entry => entry.name === name || entry.file === name || entry.file === `${name}.pth`)

/**
 * Most bytes that a released file may have where its length is not known beforehand: twice what its parameters take in
 * float32. A cap that nothing real comes near, so that a host which never stops sending does not fill the disk.
 */
export const byteLimit = ({bytes, kind, backbone}: Released): number =>
  bytes ?? (kind === 'classifier' ? 2 ** 28 : kind === 'depth' ? 2 ** 31 : kind === 'segmentation' ? 2 ** 33 : backboneLimit(backbone))

const backboneLimit = (backbone: string): number =>
  8e6 * ({s: 22, b: 87, l: 304, g: 1137}[/vit([sblg])14/.exec(backbone)?.[1] ?? 'g'] ?? 1137)

/** Where pulled models lie: `$XDG_CACHE_HOME/dinov2/models`, by default `~/.cache/dinov2/models`. */
export function modelsFolder(env: Readonly<Record<string, string | undefined>> = process.env): string {
  const cache = env['XDG_CACHE_HOME'] // the specification asks that relative values be ignored
  return join(cache && isAbsolute(cache) ? cache : join(homedir(), '.cache'), 'dinov2', 'models')
}
