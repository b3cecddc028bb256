/** `dinov2 embed`: one vector for each image. */
import {counted} from '../src/config/counted.js'
import {Flags} from '../src/cli/oclif.js'
import {badFlags, Command, configFlags, engineFlags, imagesArg, inputFlags, outputFlags, reportFlags} from '../src/cli/command.js'
import {borderFlags, modelFlag, pixelFlags, transformOf, vectorFlags} from '../src/cli/feature-flags.js'
import {shardFlag} from '../src/cli/shard-flag.js'
import {duration} from '../src/cli/progress.js'
import {UserError} from '../src/config/errors.js'

const formats = ['arrow', 'parquet', 'npy', 'jsonl', 'csv', 'safetensors'] as const

export default class Embed extends Command {
  static override group = 'Features'
  static override summary = 'Turn each image into one vector.'
  static override description =
    'Rows keep the order of the input; each carries its id, the fields of its list, and (as metadata of the file, or in a .meta.json beside it) which model made it and how. Without -o, or with -o -, an Apache Arrow stream goes to stdout, for dinov2 index, search or knn-eval to read. By file: .arrow, .parquet, .npy (with a .jsonl of ids and a .meta.json beside it), .jsonl and .csv (each with a .meta.json beside it), .safetensors.\n\nAny number of images is done in the same memory. An output grows as OUT.partial; --resume goes on behind its last whole row (all formats but .parquet), and adds images that are new to an output that is whole.\n\n--model starter is a small model that comes with the program and begins at once; dinov2_vits14 and facebook/dinov2-small are far better, and are downloaded when they are first named (HF_HUB_OFFLINE=1 forbids it).'
  static override examples = [
    '<%= config.bin %> <%= command.id %> photos --model starter -o photos.parquet',
    '<%= config.bin %> <%= command.id %> photos --model facebook/dinov2-small -o photos.parquet',
    'find photos -name "*.jpg" -print0 | <%= config.bin %> <%= command.id %> -0 - --model vits14.pth | <%= config.bin %> index - -o photos.index',
    '<%= config.bin %> <%= command.id %> list.jsonl --model run/final --size 98 --pool cls+mean --layers 4 -o features.npy',
    '<%= config.bin %> <%= command.id %> list.jsonl --model vits14.pth --shard 0/4 -o part-{shard}.arrow',
    '<%= config.bin %> <%= command.id %> photos --model vits14.pth --format jsonl | head -1'
  ]
  static override statuses = {4: 'more images were refused than --max-bad allows'}
  static override args = {...imagesArg}
  static override flags = {
    model: modelFlag,
    ...outputFlags,
    format: Flags.option({options: formats})({summary: 'Format of the output, where its name does not say.'}),
    'csv-safe': Flags.boolean({summary: 'In CSV, put a quote before texts that a spreadsheet would run as formulas (=, +, -, @, tab).'}),
    shard: shardFlag,
    ...inputFlags,
    ...vectorFlags,
    ...pixelFlags,
    ...borderFlags,
    ...engineFlags,
    ...badFlags,
    ...configFlags,
    ...reportFlags
  }

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(Embed)
    const transform = transformOf(flags)
    if (flags.shard) flags.output = flags.output.replaceAll('{shard}', String(flags.shard.index))
    const work = {
      inputs: this.inputs(args.images),
      nul: flags.null,
      model: flags.model,
      features: {pool: flags.pool, layers: flags.layers, normalize: flags.normalize, transform},
      engine: this.engineRequest(flags),
      ...(flags.batch === undefined ? {} : {batch: flags.batch}),
      ...(flags.workers === undefined ? {} : {workers: flags.workers}),
      ...(flags['max-pixels'] === undefined ? {} : {maxPixels: flags['max-pixels']}),
      shard: flags.shard,
      toolVersion: this.config.version,
      onSkipped: this.sourceNote.bind(this),
      signal: this.signal
    }
    if (flags['dry-run']) return this.#forecast(work)
    refuseTerminal(flags)
    const bad = this.badImages(flags)
    let progress = this.progress()
    const {embedImages} = await import('../src/tasks/embed/embed-images.js')
    const events = embedImages({
      ...work,
      output: flags.output,
      stdout: process.stdout,
      ...(flags.format ? {format: flags.format} : {}),
      csvSafe: flags['csv-safe'],
      force: flags.force,
      resume: flags.resume,
      onRejected: ({pathBase64, ...image}) => bad.add({...image, path_base64: pathBase64}),
      // A count that is passed cannot be made good again; a share is judged at the end.
      shouldContinue: () => !(flags['max-bad'].kind === 'count' && bad.tooMany),
      checkRejectLimit: () => bad.finish()
    })
    let waited = 0
    let step = await events.next()
    for (; !step.done; step = await events.next()) {
      const event = step.value
      if (event.kind === 'ready')
        progress = this.progress() // rates are of images, not of loading the model
      else if (event.kind === 'resumed') {
        this.note(`going on behind ${counted(event.rows, 'row that is', 'rows that are')} done`)
        progress.startAt(event.rows)
        bad.accept(event.rows)
      } else if (event.kind === 'rows') {
        bad.accept(event.rows - bad.good)
        waited = event.waiting
        progress.update(event.rows, {waiting: `${Math.round((100 * waited) / Math.max(progress.seconds, 1e-3))}%`})
      } else
        this.note(
          `${counted(event.rows, 'row is', 'rows are')} kept in ${flags.output}.partial; ` +
            (event.rejected
              ? '--resume with a larger --max-bad goes on behind them, the same command without --resume starts anew'
              : 'the same command with --resume goes on')
        )
    }
    progress.stop()
    const {engine, ...rest} = step.value
    const report = {
      ...rest,
      refused: bad.count,
      seconds: round(progress.seconds),
      imagesPerSecond: round((rest.rows - rest.resumed) / progress.seconds),
      waitingForImages: round(waited / progress.seconds),
      engine
    }
    if (rest.finished)
      this.note(
        `${counted(rest.rows, 'row')} of ${counted(rest.dim, 'number')} in ${progress.seconds.toFixed(1)} s, ${report.imagesPerSecond} images/s` +
          (flags.output === '-' ? '' : `, in ${flags.output}`)
      )
    return report
  }

  async #forecast(work: import('../src/tasks/embed/embed-images.js').EmbedInputs): Promise<unknown> {
    const {estimateEmbedding: forecast, plannedSentence} = await import('../src/tasks/embed/embed-images.js')
    const cost = await forecast(work)
    if ('download' in cost) {
      for (const line of [counted(cost.images, 'image'), plannedSentence(cost.download)]) this.note(line)
      return cost
    }
    this.note(
      `${counted(cost.images, 'image')}; ` +
        (cost.seconds === undefined
          ? 'none of the first could be read, so the time is unknown'
          : `${cost.imagesPerSecond!.toFixed(1)} images/s, ${duration(cost.seconds)} in all, ${(cost.memory / 2 ** 30).toFixed(2)} GiB`)
    )
    return cost
  }
}

/** Throws a `UserError` (exit 2) where bytes that are no text would go to a terminal. */
function refuseTerminal({output, format = 'arrow'}: {readonly output: string; readonly format?: string | undefined}): void {
  if (output !== '-' || !process.stdout.isTTY || !['arrow', 'parquet'].includes(format)) return
  const hint = 'Give -o FILE, a pipe, or --format jsonl.'
  throw new UserError('Vectors are not written to a terminal.', {exit: 2, code: 'TERMINAL', hint})
}

const round = (x: number): number => Number(x.toPrecision(4))
