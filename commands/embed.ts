/** `dinov2 embed`: one vector for each image. */
import {Flags} from '@oclif/core'
import {Command, badFlags, engineFlags, imagesArg, inputFlags, outputFlags, reportFlags, settingsFlags} from '../src/cli/command.js'
import {modelFlag, pixelFlags, transformOf, vectorFlags} from '../src/cli/feature-flags.js'
import {UserError} from '../src/config/errors.js'

const formats = ['arrow', 'parquet', 'npy', 'jsonl', 'csv', 'safetensors'] as const

export default class Embed extends Command {
  static override group = 'Features'
  static override summary = 'Turn each image into one vector.'
  static override description =
    'Rows keep the order of the input; each carries its id, the fields of its list, and (as metadata of the file) which model made it and how. Without -o, or with -o -, an Apache Arrow stream goes to stdout, for dinov2 index, search or knn-eval to read. By file: .arrow, .parquet, .npy (with a .jsonl of ids beside it), .jsonl, .csv, .safetensors.\n\nAny number of images is done in the same memory. An output grows as OUT.partial; --resume goes on behind its last whole row (all formats but .parquet).'
  static override examples = [
    '<%= config.bin %> <%= command.id %> photos --model vits14.pth -o photos.parquet',
    'find photos -name "*.jpg" -print0 | <%= config.bin %> <%= command.id %> -0 - --model vits14.pth | <%= config.bin %> index - -o photos.index',
    '<%= config.bin %> <%= command.id %> list.jsonl --model run/final --size 98 --pool cls+mean --layers 4 -o features.npy',
    '<%= config.bin %> <%= command.id %> photos --model vits14.pth --format jsonl | head -1'
  ]
  static override statuses = {4: 'more images were refused than --max-bad allows'}
  static override args = {...imagesArg}
  static override flags = {
    model: modelFlag,
    ...outputFlags,
    format: Flags.option({options: formats})({summary: 'Format of the output, where its name does not say.'}),
    ...inputFlags,
    ...vectorFlags,
    ...pixelFlags,
    ...engineFlags,
    ...badFlags,
    config: settingsFlags.config,
    set: settingsFlags.set,
    'print-config': settingsFlags['print-config'],
    ...reportFlags
  }

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(Embed)
    const inputs = this.inputs(args.images)
    const transform = transformOf(flags)
    if (
      flags.output === '-' &&
      !flags['dry-run'] &&
      process.stdout.isTTY &&
      (flags.format === undefined || flags.format === 'arrow' || flags.format === 'parquet')
    )
      throw new UserError('Vectors are not written to a terminal.', {
        exit: 2,
        code: 'TERMINAL',
        hint: 'Give -o FILE, a pipe, or --format jsonl.'
      })
    const {inspectOutput, createEmbeddings, differences, openEmbeddings} = await import('../src/files/embeddings.js')
    const place = flags['dry-run'] ? undefined : await inspectOutput(flags.output, flags)
    const {listChunks, listImages, noImages} = await import('../src/data/source.js')
    const source = {nul: flags.null, onSkip: (skipped: object): void => this.detail(JSON.stringify(skipped))}
    const {countAndKeep, embed, forecast, leaveOutDone, loadEmbedder, usualBatch} = await import('../src/steps/embed.js')

    const open = async (): Promise<{embedder: Awaited<ReturnType<typeof loadEmbedder>>; device: string; engine: object; batch: number}> => {
      const {startEngine} = await import('../src/engine/start.js')
      const {engine, version, device, precision, threads} = await startEngine({
        engine: flags.engine,
        device: flags.device,
        precision: flags.precision,
        ...(flags.threads ? {threads: flags.threads} : {}),
        note: line => this.note(line)
      })
      const embedder = await loadEmbedder(flags.model, {
        pool: flags.pool,
        layers: flags.layers,
        normalize: flags.normalize,
        transform,
        precision,
        toolVersion: this.config.version
      })
      const batch = flags.batch ?? usualBatch(embedder.config, embedder.transform, device)
      return {embedder, device, engine: {engine, version, device, precision, threads}, batch}
    }
    const decoding = {
      ...(flags.workers === undefined ? {} : {workers: flags.workers}),
      ...(flags['max-pixels'] === undefined ? {} : {maxPixels: flags['max-pixels']})
    }

    if (flags['dry-run']) {
      const {count, first} = await countAndKeep(listChunks(inputs, source), 16, this.signal)
      if (count === 0) throw noImages(inputs)
      const {embedder, batch, engine} = await open()
      using held = embedder
      const bill = await forecast(count, first, held, {batch: Math.min(batch, 16), ...decoding})
      this.note(
        `${bill.images} images; ` +
          (bill.seconds === undefined
            ? 'none of the first could be read, so the time cannot be told'
            : `${bill.imagesPerSecond!.toFixed(1)} images/s, ${spoken(bill.seconds)} in all, ${(bill.memory! / 2 ** 30).toFixed(2)} GiB`)
      )
      return {...bill, dim: held.meta.dim, ...engine}
    }

    const refs = listImages(inputs, source)
    const first = await refs.next()
    if (first.done) throw noImages(inputs)
    const all = async function* (): AsyncGenerator<typeof first.value> {
      yield first.value
      yield* refs
    }
    const bad = this.badImages(flags)
    const {embedder, batch, engine} = await open()
    using held = embedder
    if (place!.whole) {
      const done = await openEmbeddings(flags.output)
      await done.close()
      const parts = differences(done.meta, held.meta)
      if (parts.length > 0) {
        throw new UserError(`${flags.output} is there, whole, but was made in another way (${parts.join(', ')}).`, {
          exit: 2,
          code: 'OUTPUT_EXISTS',
          hint: 'Give --force to replace it, or name another output.'
        })
      }
      this.note(`${flags.output} is whole; there is nothing to go on with`)
      return {output: flags.output, resumed: done.count ?? null, rows: done.count ?? null, refused: 0}
    }
    const output = await createEmbeddings(flags.output, {
      meta: held.meta,
      stdout: process.stdout,
      force: flags.force,
      resume: flags.resume,
      batch,
      ...(flags.format ? {format: flags.format} : {})
    })
    const progress = this.progress()
    const {signal} = this
    try {
      if (output.resumed > 0) this.note(`going on behind ${output.resumed} rows of an interrupted run`)
      progress.startAt(output.resumed)
      bad.accept(output.resumed)
      const onBad = ({pathBase64, ...image}: {id: string; path: string; reason: string; pathBase64?: string}): void =>
        bad.add({...image, ...(pathBase64 === undefined ? {} : {path_base64: pathBase64})})
      const left = output.resumed > 0 ? leaveOutDone(all(), output.resumedIds(), held.transform, onBad) : all()
      const rows = embed(left, held, {batch, onBad, signal, ...decoding})
      let stopped = false
      for await (const made of rows) {
        await output.write(made)
        bad.accept(made.ids.length)
        const {waitSeconds} = rows.stats()
        progress.add(made.ids.length, {waiting: `${Math.round((100 * waitSeconds) / Math.max(progress.seconds, 1e-3))}%`})
        // A count that is passed cannot be made good; a share is judged at the end.
        stopped = signal.aborted || (flags['max-bad'].kind === 'count' && bad.tooMany)
        if (stopped) break
      }
      progress.stop()
      if (signal.aborted) {
        const kept = await output.keep()
        this.note(kept ? `stopped after ${bad.good} rows; the same command with --resume goes on` : `stopped after ${bad.good} rows`)
        return {output: flags.output, rows: bad.good, refused: bad.count, finished: false}
      }
      await bad.finish()
      await output.commit()
      const {waitSeconds} = rows.stats()
      const report = {
        output: flags.output,
        format: output.format,
        rows: bad.good,
        refused: bad.count,
        resumed: output.resumed,
        dim: held.meta.dim,
        fingerprint: held.meta.fingerprint,
        seconds: round(progress.seconds),
        imagesPerSecond: round((bad.good - output.resumed) / progress.seconds),
        waitingForImages: round(waitSeconds / progress.seconds),
        ...engine,
        batch
      }
      this.note(
        `${report.rows} rows of ${report.dim} numbers in ${progress.seconds.toFixed(1)} s, ${report.imagesPerSecond} images/s` +
          (flags.output === '-' ? '' : `, in ${flags.output}`)
      )
      return report
    } catch (error) {
      if (await output.keep()) this.note('what is done is kept; the same command with --resume goes on')
      throw error
    }
  }
}

const round = (x: number): number => Number(x.toPrecision(4))

const spoken = (seconds: number): string =>
  seconds >= 5400
    ? `${(seconds / 3600).toFixed(1)} hours`
    : seconds >= 90
      ? `${(seconds / 60).toFixed(1)} minutes`
      : `${seconds.toFixed(0)} seconds`
