/** `dinov2 explore`: a site that shows a map of images, and computes in the browser. */
import {counted} from '../src/config/counted.js'
import {Args, Flags} from '../src/cli/oclif.js'
import {depthFlags} from '../src/cli/depth-flags.js'
import {badFlags, Command, engineFlags, inputFlags, outputFlags, reportFlags} from '../src/cli/command.js'
import {modelForImagesFlag, pixelFlags, transformOf, vectorFlags} from '../src/cli/feature-flags.js'
import {UserError} from '../src/config/errors.js'

export default class Explore extends Command {
  static override group = 'Results'
  static override summary = 'Write a site that shows a map of images and runs the model in the browser.'
  static override description =
    'The map lays images that look alike to the model side by side (UMAP), coloured by label, cluster or how far an image lies from all others. A click shows the nearest neighbours; outliers, near-duplicates, labels that their neighbours contradict, one image of each cluster, or what a lasso catches are kept as a list that every command takes. With --model the page also computes: drop an image to see its parts, what the model attends to, and its neighbours; or put two images side by side and click on a part to find it in the other.\n\nThe inputs are images (with --model), embeddings, or an index in one file. The folder needs no server of ours and makes no request beyond itself: put it on any web server, or show it with --serve on this machine (127.0.0.1) until Ctrl-C. Without inputs, --serve shows the site that lies at -o. Small pictures and names of all images are in it: share it as you would share the images.'
  static override examples = [
    '<%= config.bin %> <%= command.id %> photos --model starter -o site --serve',
    '<%= config.bin %> <%= command.id %> photos.index --model vits14.pth -o site',
    '<%= config.bin %> <%= command.id %> photos.parquet -o site --title "Herbarium"',
    '<%= config.bin %> <%= command.id %> --serve -o site --port 8000'
  ]
  static override statuses = {4: 'more images were refused than --max-bad allows'}
  static override dataToStdout = false
  static override args = {
    inputs: Args.string({
      multiple: true,
      ignoreStdin: true,
      description: 'Images (folders, files, lists, tar shards), files of embeddings, or an index; - for stdin.'
    })
  }
  static override flags = {
    model: modelForImagesFlag,
    head: Flags.string({
      helpValue: 'HEAD',
      multiple: true,
      dependsOn: ['model'],
      summary:
        'A linear head that linear-eval, depth-eval or seg-eval wrote (--head-out), or a published one: the page then names the class of an image, shows its depth or its regions; repeatable.'
    }),
    'min-depth': depthFlags['min-depth'],
    'max-depth': depthFlags['max-depth'],
    output: Flags.string({char: 'o', required: true, helpValue: 'DIR', summary: 'Folder of the site.'}),
    force: outputFlags.force,
    serve: Flags.boolean({summary: 'Show the site on 127.0.0.1 until Ctrl-C.'}),
    port: Flags.integer({min: 0, max: 65_535, default: 0, helpValue: 'N', summary: 'Port for --serve; 0 takes a free one.'}),
    title: Flags.string({helpValue: 'TEXT', summary: 'Heading of the page; by default the names of the inputs.'}),
    root: Flags.string({helpValue: 'DIR', summary: 'Folder that the paths of embeddings start from; by default the present one.'}),
    clusters: Flags.integer({
      min: 1,
      max: 10_000,
      helpValue: 'N',
      summary: 'Clusters; by default the root of half the number of images, 60 at most.'
    }),
    neighbours: Flags.integer({
      min: 2,
      max: 100,
      default: 15,
      helpValue: 'N',
      summary: 'Nearest neighbours by which images are placed and judged.'
    }),
    threshold: Flags.string({
      default: '0.98',
      helpValue: 'COSINE',
      summary: 'Cosine from which on two images are listed as near-duplicates.'
    }),
    side: Flags.integer({min: 16, max: 256, default: 64, helpValue: 'PIXELS', summary: 'Side of a small picture.'}),
    fp16: Flags.boolean({summary: 'Store the weights in half precision, which halves what the page loads.'}),
    seed: Flags.integer({min: 0, default: 0, helpValue: 'N', summary: 'Where the draws of layout and clusters start.'}),
    ...inputFlags,
    pool: Flags.option({options: ['cls', 'mean', 'cls+mean'] as const})({
      default: 'cls',
      helpGroup: 'VECTORS',
      summary: vectorFlags.pool.summary
    }),
    layers: vectorFlags.layers,
    ...pixelFlags,
    ...engineFlags,
    ...badFlags,
    ...reportFlags
  }

  async run(): Promise<unknown> {
    const {args, flags} = await this.parse(Explore)
    const {output, model, serve, port} = flags
    const named = (args.inputs ?? []) as string[] | string
    if (serve && named.length === 0) return this.#serve(output, port)
    const inputs = this.inputs(named, 'images, embeddings or index')
    if (flags['dry-run'])
      return this.reportPlan(import('../src/tasks/plan.js'), {
        reads: {inputs},
        nul: flags.null,
        models: [model],
        computes: 'a map, and the page that shows it',
        writes: [output]
      })
    const threshold = Number(flags.threshold)
    if (!(threshold > 0 && threshold <= 1))
      throw new UserError(`--threshold ${flags.threshold} is not a cosine between 0 and 1.`, {
        exit: 2,
        code: 'USAGE',
        hint: 'Try --threshold 0.98.'
      })
    const bad = this.badImages(flags)
    const {explore} = await import('../src/tasks/explore/explore.js')
    const {title, root, clusters, neighbours, side, seed, force, pool, layers, batch, workers, null: nul} = flags
    const events = explore(
      {
        ...{
          inputs,
          nul,
          stdin: process.stdin,
          model,
          output,
          force,
          title,
          root,
          clusters,
          neighbours,
          threshold,
          side,
          seed,
          batch,
          workers
        },
        features: {pool, layers, normalize: false, transform: transformOf(flags)},
        half: flags.fp16,
        heads: flags.head ?? [],
        minDepth: flags['min-depth'],
        maxDepth: flags['max-depth'],
        maxPixels: flags['max-pixels'],
        engine: this.engineRequest(flags),
        toolVersion: this.config.version,
        onRejected: ({pathBase64, ...image}) => bad.add({...image, path_base64: pathBase64}),
        onSkipped: skipped => this.sourceNote(skipped),
        signal: this.signal
      },
      () => bad.finish()
    )
    const report = await this.#follow(events, rows => bad.accept(rows - bad.good))
    this.note(
      `${counted(report.images, 'image')} in ${counted(report.clusters, 'cluster')}; ${counted(report.duplicates, 'near-duplicate')}, ${counted(report.contradicted, 'doubtful label')}; in ${output}`
    )
    if (report.pictures < report.images)
      this.warn(
        `${counted(report.images - report.pictures, 'image')} could not be opened and ${report.images - report.pictures === 1 ? 'has' : 'have'} no small picture; --root DIR says where paths start`
      )
    if (serve) await this.#serve(output, port)
    else this.note(`look at it with: ${this.config.bin} explore --serve -o ${output}`)
    return report
  }

  /** Shows how far the work is; its result. */
  async #follow<T>(
    events: AsyncGenerator<import('../src/tasks/explore/explore.js').ExploreEvent, T>,
    onRows: (rows: number) => void
  ): Promise<T> {
    let label = ''
    let progress = this.progress()
    let step = await events.next()
    for (; !step.done; step = await events.next()) {
      const event = step.value
      if (event.kind === 'read') {
        onRows(event.rows)
        progress.update(event.rows)
        continue
      }
      const now = event.kind === 'work' ? event.label : 'pictures'
      if (now !== label) progress = this.progress({label: (label = now), total: event.total})
      progress.update(event.done)
    }
    progress.stop()
    return step.value
  }

  /** Serves the site until a signal comes; the report is the result. */
  async #serve(folder: string, port: number): Promise<{served: string}> {
    const {serveFolder} = await import('../src/tasks/explore/serve.js')
    const {url, closed} = await serveFolder(folder, {port, signal: this.signal})
    this.note(`${folder} at ${url} until Ctrl-C`)
    await closed
    return {served: url}
  }
}
