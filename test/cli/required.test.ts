/** Command lines that lack something required: every missing name, with what it is for, and the exit status. */
import assert from 'node:assert/strict'
import {test} from 'node:test'
import {UserError} from '../../src/config/errors.js'
import {assertComplete} from '../../src/cli/required.js'
import {folder, realBinary, run} from '../support/program.js'

const flags = {
  model: {required: true, helpValue: 'MODEL', summary: 'What computes.'},
  to: {required: true, options: ['hf', 'meta'], summary: 'The format.'},
  output: {required: true, char: 'o', helpValue: 'FILE', summary: 'Where it goes.'},
  count: {required: true, default: 3, summary: 'How many.'},
  quiet: {summary: 'No words.'}
}

test('all that is missing is named at once, and what is given or has a default is not', () => {
  const args = [['image', {required: true, description: 'The image.'}]] as const
  assert.throws(
    () => assertComplete(flags, new Set(['model']), args, 0, 'See help.'),
    (error: unknown) => {
      assert.ok(error instanceof UserError)
      assert.equal(error.message, 'Give IMAGE, --to hf|meta and -o FILE.')
      assert.equal(error.hint, 'IMAGE: The image.\n--to hf|meta: The format.\n-o FILE: Where it goes.\nSee help.')
      return error.exit === 2
    }
  )
  assertComplete(flags, new Set(['model', 'to', 'output']), args, 1, 'See help.')
})

test('a command without its model says how to begin; the environment counts as given', async () => {
  const cwd = folder()
  const without = await run(realBinary, ['embed', 'photos'], {cwd})
  assert.equal(without.status, 2)
  assert.match(without.stderr, /^error: Give --model MODEL\.\n {2}--model MODEL: .*starter/)
  const given = await run(realBinary, ['embed', 'photos'], {cwd, env: {DINOV2_MODEL: 'starter'}})
  assert.equal(given.status, 3, 'the folder of images is what is missing now')
})

test('--print-config asks for nothing that is required, and prints what is given', async () => {
  for (const [args, shown] of [
    [['embed', '--print-config', '--size', '98'], /^size: +98 +# command line$/m],
    [['knn-eval', '--print-config'], /^# train: not set$/m],
    [['linear-eval', '--print-config', '--steps', '7'], /^steps: +7 +# command line$/m]
  ] as const) {
    const printed = await run(realBinary, args)
    assert.equal(printed.status, 0, printed.stderr)
    assert.match(printed.stdout, shown)
  }
})
