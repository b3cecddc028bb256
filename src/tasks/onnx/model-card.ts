/** The README.md of an exported ONNX folder: what goes in, what comes out, and how it is run. */
import {counted} from '../../config/counted.js'
import {isImageNet, type Preprocessing} from '../../files/checkpoint/preprocessing.js'
import type {VitConfig} from '../../model/config.js'
import type {ExportedHead} from './exported-head.js'

type CardOptions = {
  readonly config: VitConfig
  readonly side: number
  readonly heads: readonly ExportedHead[]
  /** The files below onnx/. */
  readonly files: readonly string[]
  readonly fp16: boolean
  readonly normalize: boolean
  readonly license?: string
  readonly preprocessing: Preprocessing
}

const about: Readonly<Record<ExportedHead['task'], string>> = {
  classify: 'scores of the classes, before the softmax',
  depth: 'depth of every pixel in metres',
  segment: 'scores of the classes of every pixel, before the softmax'
}

export function onnxCard({config, side, heads, files, fp16, normalize, license, preprocessing}: CardOptions): string {
  const {width, depth, patch, registers} = config
  const N = (side / patch) ** 2
  const {resize, mean, std} = preprocessing
  const scale = isImageNet(preprocessing) ? "ImageNet's mean and deviation" : `mean ${mean.join(', ')} and deviation ${std.join(', ')}`
  const front = [
    ...(license === undefined ? [] : [`license: ${JSON.stringify(license)}`]),
    'library_name: transformers.js',
    'pipeline_tag: image-feature-extraction',
    'tags:',
    '- dinov2',
    '- onnx'
  ]
  const rows = [
    [
      '`pixel_values` (input)',
      `batch × 3 × ${side} × ${side}`,
      normalize ? 'red, green, blue from 0 to 1' : `the same, normalized by ${scale}`
    ],
    [
      '`last_hidden_state`',
      `batch × ${1 + registers + N} × ${width}`,
      `all tokens after the final norm: class token, ${registers ? `${counted(registers, 'register')}, ` : ''}patches row by row`
    ],
    ['`pooler_output`', `batch × ${width}`, 'the class token: one vector an image'],
    ['`patch_tokens`', `batch × ${N} × ${width}`, 'the patches'],
    ...heads.map(({output, shape, task}) => [`\`${output}\``, ['batch', ...shape].join(' × '), about[task]])
  ]
  const body = [
    `# DINOv2 vision transformer as ONNX`,
    `Width ${width}, ${counted(depth, 'block')}, patches of ${patch} pixels, for images of ${side} × ${side}; the batch is free. Operators of opset 17, all in float32${fp16 ? ' but linear layers, which are in half precision' : ''}. Files: ${files.map(name => `onnx/${name}`).join(', ')}.`,
    ['| | | |', '| --- | --- | --- |', ...rows.map(cells => `| ${cells.join(' | ')} |`)].join('\n'),
    `Images are resized to ${resize} pixels along the shorter edge (bicubic), cut to ${side} × ${side} from the centre${normalize ? ' and divided by 255; the graph normalizes them' : `, divided by 255 and normalized by ${scale}`}: \`preprocessor_config.json\`. transformers.js resizes by another bicubic filter than Pillow, so its vectors differ a little where images are not of that size already.`,
    ...heads.flatMap(({notes}) => notes),
    [
      '```js',
      "import {pipeline} from '@huggingface/transformers'",
      '',
      "const extract = await pipeline('image-feature-extraction', folder)",
      "const vector = await extract('photo.jpg', {pool: true})",
      '```'
    ].join('\n'),
    [
      '```python',
      'import onnxruntime',
      '',
      `session = onnxruntime.InferenceSession("onnx/${files[0]}")`,
      '(vectors,) = session.run(["pooler_output"], {"pixel_values": pixels})',
      '```'
    ].join('\n')
  ]
  return `---\n${front.join('\n')}\n---\n\n${body.join('\n\n')}\n`
}
