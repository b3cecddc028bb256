/**
 * A command that does what a test asks of it, to see the base class from outside: fail in every way, write, wait, be
 * interrupted.
 */
import {once} from 'node:events'
import {createReadStream} from 'node:fs'
import {setTimeout as wait} from 'node:timers/promises'
import {Flags} from '../../../src/cli/oclif.js'
import {
  badFlags,
  Command,
  configFlags,
  engineFlags,
  imagesArg,
  inputFlags,
  outputFlags,
  reportFlags,
  seedFlag
} from '../../../src/cli/command.js'
import {UserError} from '../../../src/config/errors.js'

export default class Probe extends Command {
  static override summary = 'Do what a test asks.'
  static override group = 'Data'
  static override examples = ['<%= config.bin %> <%= command.id %> photos -o rows.txt']
  static override args = {...imagesArg}
  static override flags = {
    ...outputFlags,
    ...inputFlags,
    ...engineFlags,
    ...badFlags,
    ...configFlags,
    ...seedFlag,
    ...reportFlags,
    fail: Flags.string({options: ['user', 'nothing', 'bad', 'engine', 'unhealthy', 'defect', 'disk', 'late'], summary: 'How to fail.'}),
    rows: Flags.integer({default: 3, min: 0, summary: 'Rows to write.'}),
    refuse: Flags.integer({default: 0, summary: 'Inputs to refuse.'}),
    wait: Flags.option({options: ['watching', 'blind'] as const})({summary: 'Wait to be interrupted.'}),
    k: Flags.string({multiple: true, delimiter: ',', default: ['10'], summary: 'Several values.'}),
    tag: Flags.string({multiple: true, helpValue: 'TEXT', summary: 'Several values, one a flag.'}),
    show: Flags.boolean({summary: 'Report all flags.'})
  }

  async run(): Promise<unknown> {
    const {args, flags, argv} = await this.parse(Probe)
    this.warn('a warning')
    this.detail('a detail')
    if (flags.fail === 'user') throw new UserError('It did not work.', {code: 'BROKEN', hint: 'Try again.'})
    if (flags.fail === 'engine') throw new UserError('No engine.', {exit: 5, code: 'NO_ENGINE'})
    if (flags.fail === 'unhealthy') throw new UserError('Losses are not finite.', {exit: 6, code: 'UNHEALTHY'})
    if (flags.fail === 'defect') throw new TypeError('undefined is not a tensor')
    if (flags.fail === 'disk') createReadStream('/nowhere/at/all').resume()
    if (flags.fail === 'disk') await wait(5000)
    if (flags.fail === 'late') setTimeout(() => void Promise.reject(new Error('nobody listens')), 10)
    if (flags.fail === 'late') await wait(5000)
    if (flags.fail === 'nothing') this.inputs([])
    if (flags.show) return {flags, args, argv: argv.length, sources: this.sources}
    const inputs = this.inputs(args.images)
    const bad = this.badImages(flags)
    for (let i = 0; i < flags.refuse; i++) bad.add({id: `bad${i}`, path: `bad${i}.jpg`, reason: 'truncated'})
    bad.accept(10)
    const output = await this.output(flags.output)
    const progress = this.progress({total: flags.rows, every: 0.2})
    if (flags.wait === 'watching') {
      const {signal} = this
      output.stream.write('first\n')
      this.note('waiting')
      const beat = setInterval(() => {}, 1000)
      if (!signal.aborted) await once(signal, 'abort')
      clearInterval(beat)
      if (process.env['PROBE_SLOW']) await wait(10_000)
      output.stream.write('finished cleanly\n')
    } else if (flags.wait === 'blind') {
      output.stream.write('first\n')
      this.note('waiting')
      await wait(60_000)
    }
    for (let i = 0; i < flags.rows; i++) {
      if (!output.stream.write(`row ${i}\n`)) await once(output.stream, 'drain')
      progress.add()
    }
    await bad.finish()
    await output.commit()
    return {rows: flags.rows, inputs: inputs.length, seed: flags.seed}
  }
}
