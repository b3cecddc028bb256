/** `dinov2 samples draw`: a labelled folder of pictures that the tool draws itself. */
import {counted} from '../../src/config/counted.js'
import {Flags} from '../../src/cli/oclif.js'
import {Command, outputFlags, reportFlags, seedFlag} from '../../src/cli/command.js'

export default class SamplesDraw extends Command {
  static override group = 'Data'
  static override dataToStdout = false
  static override summary = 'Draw a labelled folder of sample pictures.'
  static override description =
    'Sixteen classes of rendered things and textures (bottle, box, bricks, chair, cobbles, fish, flower, house, mug, mushroom, planks, ring, star, tree, weave, wheel) with pose, light, colours, background and scale drawn anew for each picture and independent of the class: something to train and test on where no photos are at hand. Things are large and grounds plain; two classes share each palette, and the light hides it, so that a good method beats a comparison of pixels or colours soon. --hard draws any colour anywhere, textured grounds and clutter. Writes DIR/{train,val}/<class>/<number>.png; the same seed gives the same bytes, and a larger set holds a smaller one. --maps adds the truth of every pixel under the same names: DIR/depth (16-bit PNG, for depth-eval --depths) and DIR/masks (background, floor, wall, thing, for seg-eval --masks).'
  static override examples = [
    '<%= config.bin %> samples draw -o drawn',
    '<%= config.bin %> samples draw -o few --classes star,mug,bricks --per-class 20 --val-per-class 5 --size 64',
    '<%= config.bin %> samples draw -o scenes --maps --per-class 20 --val-per-class 5'
  ]
  static override flags = {
    output: Flags.string({char: 'o', required: true, helpValue: 'DIR', summary: 'The folder to make.'}),
    classes: Flags.string({default: '16', helpValue: 'N|NAMES', summary: 'How many classes, or their names separated by commas.'}),
    'per-class': Flags.integer({min: 1, max: 100_000, default: 150, helpValue: 'N', summary: 'Pictures of each class for training.'}),
    'val-per-class': Flags.integer({min: 0, max: 100_000, default: 40, helpValue: 'N', summary: 'Pictures of each class for validation.'}),
    size: Flags.integer({min: 16, max: 1024, default: 96, helpValue: 'PIXELS', summary: 'Side of a picture.'}),
    format: Flags.option({options: ['png', 'jpg'] as const})({default: 'png', summary: 'File format; jpg is of quality 92.'}),
    hard: Flags.boolean({
      summary:
        'Draw vivid colours, textured grounds and clutter: small recipes learn to sort such pictures by colour, and much more training is needed.'
    }),
    maps: Flags.boolean({summary: 'Also write depth and masks of every picture.'}),
    ...seedFlag,
    force: outputFlags.force,
    json: reportFlags.json,
    quiet: reportFlags.quiet,
    'dry-run': reportFlags['dry-run']
  }

  async run(): Promise<unknown> {
    const {flags} = await this.parse(SamplesDraw)
    const {chooseClasses, drawSamples} = await import('../../src/tasks/samples.js')
    const classes = chooseClasses(flags.classes)
    const total = classes.length * (flags['per-class'] + flags['val-per-class'])
    if (flags['dry-run']) {
      this.note(
        `would draw ${counted(total, 'image')} of ${counted(classes.length, 'class', 'classes')} (${classes.join(', ')}) into ${flags.output}`
      )
      return {output: flags.output, classes, pictures: total}
    }
    const progress = this.progress({total, unit: 'pictures'})
    const report = await drawSamples({
      output: flags.output,
      classes: flags.classes,
      perClass: flags['per-class'],
      valPerClass: flags['val-per-class'],
      size: flags.size,
      seed: flags.seed ?? 0,
      format: flags.format,
      style: flags.hard ? 'hard' : 'plain',
      maps: flags.maps,
      force: flags.force,
      signal: this.signal,
      onPicture: done => progress.update(done)
    })
    progress.stop()
    this.note(
      `drew ${report.train} + ${counted(report.val, 'image')} of ${counted(classes.length, 'class', 'classes')} into ${report.output} in ${progress.seconds.toFixed(1)} s`
    )
    return report
  }
}
