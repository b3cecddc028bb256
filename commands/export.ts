/** `dinov2 export`: a checkpoint of one kind, written as another. */
import {counted} from '../src/config/counted.js'
import {Args, Flags} from '../src/cli/oclif.js'
import {depthFlags} from '../src/cli/depth-flags.js'
import {Command, outputFlags, reportFlags} from '../src/cli/command.js'

export default class Export extends Command {
  static override group = 'Results'
  static override dataToStdout = false
  static override summary = 'Write a model in the format of another tool.'
  static override description = `MODEL is whatever holds one: a .pth or .safetensors file, a run folder (of an unfinished run the newest checkpoint), one of its checkpoints, a Hugging Face or timm folder, the name of a released model or an id of the Hugging Face hub.
safetensors: one file under Meta's names, its architecture in the metadata. hf: a folder that transformers opens. meta: a .pth as Meta's released backbones, for torch.load; with --with-heads as Meta's training writes its teacher ({"teacher": {"backbone.…", "dino_head.…"}}). timm: a folder that timm.create_model('local-dir:FOLDER') opens. onnx: a folder that onnxruntime, optimum and transformers.js open, for images of one size: tokens in last_hidden_state, the class token in pooler_output, the patches in patch_tokens, and what heads say. Images are square; a segmentation head slides its windows over them at one size, without mirror images.
Numbers are written as float32, or with --fp16 in half precision. A .pth is read by a parser that builds tensors and containers and nothing else; nothing in it is ever executed.`
  static override examples = [
    '<%= config.bin %> export run --to hf -o my-model',
    '<%= config.bin %> export dinov2_vits14 --to safetensors -o vits14.safetensors',
    '<%= config.bin %> export run --to meta --with-heads -o teacher_checkpoint.pth',
    '<%= config.bin %> export run/checkpoints/step-0003750.safetensors --to meta --with-heads -o teacher_checkpoint.pth',
    '<%= config.bin %> export run --to onnx --size 224 -o run-onnx',
    '<%= config.bin %> export run --to onnx --fp16 --normalize --head classes.safetensors -o classifier',
    '<%= config.bin %> export nyu_head.pth --state-dict-only --to safetensors -o nyu_head.safetensors'
  ]
  static override args = {
    model: Args.string({
      required: true,
      ignoreStdin: true,
      description: 'The model to convert: a file, a folder, or the name of a released model.'
    })
  }
  static override flags = {
    to: Flags.option({options: ['safetensors', 'hf', 'meta', 'timm', 'onnx'] as const})({required: true, summary: 'The format to write.'}),
    output: Flags.string({char: 'o', required: true, helpValue: 'PATH', summary: 'The file or folder to write.'}),
    force: outputFlags.force,
    root: Flags.string({helpValue: 'NAME', summary: 'Which of several models in one file, e.g. student; by default the teacher.'}),
    'num-heads': Flags.integer({min: 1, helpValue: 'N', summary: 'Attention heads, where the file does not say; by default width / 64.'}),
    'with-heads': Flags.boolean({summary: 'Write the projection heads too, where the model has them (meta and safetensors).'}),
    fp16: Flags.boolean({summary: 'Write half precision: half the size, and about three digits of each number (safetensors, onnx).'}),
    'state-dict-only': Flags.boolean({
      summary: 'Of a .pth with foreign objects (mmcv), read only its state_dict; the rest is passed over, never built.'
    }),
    license: Flags.string({helpValue: 'ID', summary: 'Licence of the weights for the model card, e.g. apache-2.0 (hf, onnx).'}),
    size: Flags.integer({
      min: 1,
      helpValue: 'PIXELS',
      summary:
        'Side of the images: short for a --crop of that side and a --resize of 8/7 of it, as embed has it; the input of an ONNX model.'
    }),
    head: Flags.string({
      multiple: true,
      helpValue: 'FILE',
      summary:
        'A head of linear-eval, depth-eval or seg-eval, or a published one, whose answers the model gives too (onnx): logits, predicted_depth, segmentation_logits; repeatable.'
    }),
    'min-depth': depthFlags['min-depth'],
    'max-depth': depthFlags['max-depth'],
    normalize: Flags.boolean({summary: 'Normalize pixels inside the model, which then takes values from 0 to 1 (onnx).'}),
    resize: Flags.integer({
      min: 1,
      helpValue: 'PIXELS',
      summary: 'Shorter edge that the preprocessor resizes to (hf, onnx); by default what the model was trained with, else 256.'
    }),
    crop: Flags.integer({
      min: 1,
      helpValue: 'PIXELS',
      summary: 'Side of the square that the preprocessor cuts out (hf, onnx); by default what the model was trained with, else 224.'
    }),
    json: reportFlags.json,
    quiet: reportFlags.quiet,
    'dry-run': reportFlags['dry-run']
  }

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(Export)
    const {exportModel} = await import('../src/tasks/export.js')
    const bar = flags['dry-run'] ? undefined : this.progress({unit: 'tensors', label: 'export'})
    const report = await exportModel({
      model: args.model,
      to: flags.to,
      output: flags.output,
      force: flags.force,
      root: flags.root,
      numHeads: flags['num-heads'],
      withHeads: flags['with-heads'],
      fp16: flags.fp16,
      stateDictOnly: flags['state-dict-only'],
      license: flags.license,
      resize: flags.resize,
      crop: flags.crop,
      size: flags.size,
      heads: flags.head,
      minDepth: flags['min-depth'],
      maxDepth: flags['max-depth'],
      normalize: flags.normalize,
      toolVersion: this.config.version,
      dryRun: flags['dry-run'],
      onTensor: (done, total) => {
        if (!bar) return
        bar.total = total
        bar.update(done)
      }
    })
    for (const note of report.notes) this.note(note)
    const what = report.config
      ? `backbone of width ${report.config.width}, depth ${report.config.depth}, ${counted(report.config.heads, 'head')}, patch ${report.config.patch}`
      : 'head'
    const count = `${counted(report.tensors, 'tensor')}, ${counted(report.parameters, 'parameter')}, ${Math.ceil(report.bytes / 1e6)} MB`
    this.note(`${flags['dry-run'] ? 'would write' : 'wrote'} ${report.output}: ${what}, ${count}`)
    return report
  }
}
