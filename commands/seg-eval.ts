/** `dinov2 seg-eval`: how good patch features are, by a linear segmentation head. */
import {Flags} from '../src/cli/oclif.js'
import {EvalCommand} from '../src/cli/eval-command.js'
import {baselineFlag, evalOutputFlags, evalRunFlags, requiredSetFlag, setFlag} from '../src/cli/eval-flags.js'
import {modelFlag} from '../src/cli/feature-flags.js'
import {segmentationEvalFlags} from '../src/cli/segmentation-flags.js'

export default class SegEval extends EvalCommand {
  static override summary = 'Train and score a linear segmentation head on frozen patch features.'
  static override description =
    'Images are paired with masks of class ids: --masks names a folder with the same relative paths (images/val/a.jpg, masks/val/a.png), or the mask field of a list names each. Ids are taken as stored, palette or grey. Classes come from --classes, else from classes.txt beside the masks, else from the ids found; classes called unlabelled, void or ignore are left out, as is --ignore.\n\nThe head is batch normalization and a 1×1 convolution, trained by AdamW with the published schedule on random views (resized, cropped, mirrored, colours distorted), or with --cached on features of whole images that are computed once, which suits small machines. --protocol ms joins the last four blocks and tests at five scales, mirrored too. Images are looked at in sliding windows; a window that is no multiple of the patch is padded as the published heads expect.\n\nmIoU is counted over the whole set, as mmsegmentation counts it. Beside the model stand the most frequent class, raw pixels and a histogram of colours (of each patch, with its position, through the same head) and the same architecture with fresh weights; intervals are 95 % bootstrap intervals over images. --head scores a head that is trained, also a published one (dinov2_vits14_ade20k_linear_head.pth).'
  static override examples = [
    '<%= config.bin %> <%= command.id %> --train images/train --val images/val --masks masks --model run/final --cached --size 240 --html seg.html',
    '<%= config.bin %> <%= command.id %> --train train.jsonl --val val.jsonl --test test.jsonl --model vits14.pth --protocol ms --head-out seg.safetensors',
    '<%= config.bin %> <%= command.id %> --val ade/val --masks ade/masks --reduce-zero-label --model dinov2_vits14_pretrain.pth --head dinov2_vits14_ade20k_linear_head.pth --json'
  ]
  static override flags = {
    train: setFlag('Images with masks that the head is trained on. Repeatable.'),
    val: requiredSetFlag('Images with masks that are scored. Repeatable.'),
    test: setFlag('A second set that is scored apart. Repeatable.'),
    masks: Flags.string({
      helpValue: 'DIR',
      summary: 'Folder of masks, laid out as the images; without it lists name them in their mask field.'
    }),
    model: modelFlag,
    'head-out': Flags.string({
      helpValue: 'FILE',
      summary: 'Keep the trained head (.safetensors) for predict segment, or for --head.',
      exclusive: ['head']
    }),
    head: Flags.string({
      helpValue: 'FILE',
      summary: 'Score this head instead of training one: of --head-out, or published (.pth).',
      exclusive: ['train', 'cached', 'steps', 'train-batch', 'lr', 'weight-decay', 'cache-memory', 'cache-disk']
    }),
    baseline: baselineFlag(['pixels', 'histogram', 'untrained'], 'all three'),
    ...evalOutputFlags,
    ...segmentationEvalFlags,
    ...evalRunFlags
  }

  async run(): Promise<unknown> {
    const {flags} = await this.parse(SegEval)
    const {train, val, test, masks, model, head, force, cached, steps, lr} = flags
    this.inputs([...(train ?? []), ...val, ...(test ?? [])])
    if (flags['dry-run'])
      return this.reportPlan(import('../src/tasks/plan.js'), {
        reads: {train, val, test},
        nul: flags.null,
        models: [model],
        files: [head],
        computes: 'segmentation heads, and masks of the images that are scored',
        writes: [flags.output, flags.predictions, flags.html, flags['head-out']]
      })
    const {layers, size, crop, stride, scales, flip} = flags
    const {segEval} = await import('../src/tasks/eval/segmentation/evaluate.js')
    return this.evaluate(flags, common =>
      segEval({
        ...common,
        ...{train, val, test, masks, model, head, headOut: flags['head-out'], force, cached, steps, lr},
        classes: {ignore: flags.ignore, reduceZero: flags['reduce-zero-label'], file: flags.classes},
        kind: flags.protocol,
        protocol: {layers, size, crop, stride, scales, flip},
        trainBatch: flags['train-batch'],
        weightDecay: flags['weight-decay'],
        cache: {
          memory: this.#bytes('cache-mb', flags['cache-mb']) ?? flags['cache-memory'] * 2 ** 30,
          disk: this.#bytes('cache-disk-mb', flags['cache-disk-mb']) ?? flags['cache-disk'] * 2 ** 30
        },
        baselines: (flags.baseline ?? (['pixels', 'histogram', 'untrained'] as const)).filter(name => name !== 'none'),
        examples: flags.html === undefined ? 0 : 3
      })
    )
  }

  /** Bytes of a flag in MiB that has another name by now. */
  #bytes(old: string, mebibytes: number | undefined): number | undefined {
    if (mebibytes === undefined) return undefined
    this.warn(`--${old} is deprecated: give --${old.replace(/-mb$/, '').replace(/^cache$/, 'cache-memory')} in GiB`)
    return mebibytes * 2 ** 20
  }
}
