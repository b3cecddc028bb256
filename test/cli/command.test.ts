/**
 * docs/contract.md, seen from a shell: exit statuses, `--json`, pipes, signals, environment, outputs that appear
 * whole. Runs real processes.
 */
import assert from 'node:assert/strict'
import {existsSync, readdirSync, readFileSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {describe, it} from 'node:test'
import {openOutput} from '../../src/system/output.js'
import {fixtureBinary, folder, run, said, shell, start, type Ended} from '../support/program.js'

const program = fixtureBinary()
const probe = (...args: string[]): Promise<Ended> => run(program, ['probe', ...args])
const lastLine = (text: string): string => text.trimEnd().split('\n').at(-1)!

describe('exit status', {concurrency: 2}, () => {
  const cases: [string, string[], number, string][] = [
    ['all well', ['x', '-o', 'FILE'], 0, ''],
    ['the run failed', ['x', '--fail', 'user'], 1, 'BROKEN'],
    ['an unknown flag', ['x', '--sed', '3'], 2, 'USAGE'],
    ['a value that is none of the options', ['x', '--engine', 'abacus'], 2, 'USAGE'],
    ['a flag without its value', ['x', '--seed'], 2, 'USAGE'],
    ['a value out of range', ['x', '--threads', '0'], 2, 'USAGE'],
    ['a --max-bad that is none', ['x', '--max-bad', 'many'], 2, 'USAGE'],
    ['no input', [], 3, 'NO_INPUT'],
    ['too many bad inputs', ['x', '--refuse', '3', '--max-bad', '2'], 4, 'TOO_MANY_BAD'],
    ['no engine', ['x', '--fail', 'engine'], 5, 'NO_ENGINE'],
    ['unhealthy', ['x', '--fail', 'unhealthy'], 6, 'UNHEALTHY'],
    ['a defect', ['x', '--fail', 'defect'], 70, 'DEFECT'],
    ['a rejection that nobody handles', ['x', '--fail', 'late'], 70, 'DEFECT'],
    ['a file of the system that is not there', ['x', '--fail', 'disk'], 1, 'ENOENT']
  ]
  for (const [name, args, status, code] of cases) {
    it(`is ${status} for ${name}, with and without --json`, async () => {
      const dir = folder()
      const here = args.map(arg => (arg === 'FILE' ? join(dir, 'a') : arg))
      const plain = await probe(...here)
      const json = await probe(
        ...here.map(arg => arg.replace(/a$/, 'b')),
        '--json',
        ...(args.includes('FILE') ? [] : ['-o', join(dir, 'c')])
      )
      assert.equal(plain.status, status, plain.stderr)
      assert.equal(json.status, status, json.stderr)
      const object = JSON.parse(json.stdout) as {error?: {code: string; message: string; hint?: string}}
      if (status === 0) return assert.equal(object.error, undefined)
      assert.equal(object.error!.code, code)
      assert.ok(object.error!.message.length > 0)
      assert.equal(existsSync(join(dir, 'c')), false)
      assert.doesNotMatch(status === 70 ? '' : plain.stderr, /\n {4}at /, 'no stack for what the user can mend')
      if (status === 70) assert.match(plain.stderr, /\n {4}at [\s\S]*Please report/)
    })
  }

  it('is 2 for a command that does not exist, with the nearest name', async () => {
    const wrong = await run(program, ['porbe'])
    assert.equal(wrong.status, 2)
    assert.match(wrong.stderr, /no command porbe[\s\S]*Did you mean fixture probe\?/)
    const inTopic = await run(program, ['topic', 'on'])
    assert.equal(inTopic.status, 2)
    assert.match(inTopic.stderr, /Did you mean fixture topic one\?/)
  })

  it('suggests the nearest flag', async () => {
    assert.match((await probe('x', '--ouptut', 'y')).stderr, /Unknown flag: --ouptut\n.*Did you mean --output\?/)
  })

  it('passes over bad inputs within the limit, and says how many', async () => {
    const {status, stderr} = await probe('x', '--refuse', '2', '--max-bad', '20%')
    assert.equal(status, 0)
    assert.match(stderr, /skipped bad1\.jpg: truncated/)
    assert.match(stderr, /2 of 12 inputs were refused/)
  })
})

describe('stdout and stderr', {concurrency: 2}, () => {
  it('keeps stdout for rows; the report is the last line of stderr', async () => {
    const {stdout, stderr, status} = await probe('x', '--json')
    assert.equal(status, 0)
    assert.equal(stdout, 'row 0\nrow 1\nrow 2\n')
    assert.match(stderr, /^warning: a warning\n/)
    assert.deepEqual(JSON.parse(lastLine(stderr)), {rows: 3, inputs: 1})
  })

  it('puts a failure where the report would be', async () => {
    const {stdout, stderr} = await probe('x', '--json', '--fail', 'user')
    assert.equal(stdout, '')
    assert.deepEqual(JSON.parse(lastLine(stderr)), {error: {code: 'BROKEN', message: 'It did not work.', hint: 'Try again.'}})
  })

  it('says nothing but warnings under --quiet, and more under --verbose', async () => {
    assert.equal((await probe('x', '-q')).stderr, 'warning: a warning\n')
    assert.match((await probe('x', '-v')).stderr, /a detail/)
  })

  it('ends quietly with 0 when the reader has had enough', async () => {
    const {stdout, stderr} = await shell(program, '$P probe x --rows 2000000 -q | head -1; echo "${PIPESTATUS[0]}"')
    assert.equal(stdout, 'row 0\n0\n')
    assert.equal(stderr, 'warning: a warning\n')
  })

  it('survives a closed stderr', async () => {
    const {stdout} = await shell(program, '$P probe x 2> >(true); echo $?')
    assert.match(stdout, /row 2\n0\n$/)
  })

  it('is silent on a stderr that is open for reading only, and refuses such a stdout', async () => {
    const {stdout} = await shell(program, '$P probe x 2< /dev/null; echo $?')
    assert.match(stdout, /row 2\n0\n$/)
    const {stderr} = await shell(program, '$P probe x 1< /dev/null; echo $? >&2')
    assert.match(stderr, /Stdout cannot be written to: it is open for reading only[^]*\n1\n$/)
  })

  it('fails with 1 and a sentence when the disk is full', {skip: !existsSync('/dev/full')}, async () => {
    const full = await shell(program, '$P probe x --rows 100000 -q -f -o /dev/full; echo $?')
    assert.match(full.stdout, /^1\n$/, full.stderr)
    assert.match(full.stderr, /No room left on the disk for \/dev\/full/)
    const onStdout = await shell(program, '$P probe x --rows 100000 -q > /dev/full; echo $? >&2')
    assert.match(onStdout.stderr, /No room left on the disk for stdout[\s\S]*\n1\n$/)
  })
})

describe('stdin', {concurrency: 2}, () => {
  it('is never taken for an argument', async () => {
    const {status} = await run(program, ['probe'], {input: 'a.jpg\nb.jpg\n'})
    assert.equal(status, 3)
    const one = await run(program, ['topic', 'one', 'an.index', '--json'], {input: 'piped\n'})
    assert.deepEqual(JSON.parse(one.stdout), {index: 'an.index', images: []})
    assert.equal((await run(program, ['topic', 'one'], {input: 'piped\n'})).status, 2)
  })

  it('is not waited for when an input was named', {timeout: 20_000}, async () => {
    const {ended} = start(program, ['probe', 'x'], {input: null})
    assert.equal((await ended).stdout, 'row 0\nrow 1\nrow 2\n')
  })

  it('can be named once', async () => {
    assert.equal((await probe('-', 'x', '-')).status, 2)
    assert.equal((await probe('-')).status, 0)
  })
})

describe('command line', {concurrency: 2}, () => {
  type Shown = {flags: Record<string, unknown>; args: {images?: string[]}; sources: Record<string, string>}
  const show = async (args: string[], env: Record<string, string> = {}): Promise<Shown> => {
    const {stdout, stderr, status} = await run(program, ['probe', ...args, '--show', '--json', '-o', 'x'], {env})
    assert.equal(status, 0, stderr)
    return JSON.parse(stdout) as Shown
  }

  it('takes clusters, =, attached values, -- and twenty thousand names', async () => {
    const many = Array.from({length: 20_000}, (_, i) => `img${i}.jpg`)
    const {flags, args} = await show(
      ['-f0', '--k=1,2', '--tag', 'a', 'first', '--tag=b', '--batch=4', ...many, '--', '--force', '-x'].filter(
        arg => arg !== '--' && arg !== '--force' && arg !== '-x'
      )
    )
    assert.deepEqual([flags['force'], flags['null'], flags['k'], flags['tag'], flags['batch']], [true, true, ['1', '2'], ['a', 'b'], 4])
    assert.equal(args.images!.length, 20_001)
    const dashed = await run(program, ['probe', '--show', '--json', '-ox', '--', '--force', '-1.jpg'])
    assert.deepEqual((JSON.parse(dashed.stdout) as Shown).args.images, ['--force', '-1.jpg'])
  })

  it('reads every flag from the environment, below the command line', async () => {
    const env = {
      DINOV2_BATCH: '8',
      DINOV2_FORCE: 'yes',
      DINOV2_MAX_BAD: '7',
      DINOV2_TAG: 'a b',
      DINOV2_K: '5,6',
      DINOV2_SEED: '3',
      DINOV2_VERBOSE: '0'
    }
    const {flags, sources} = await show(['--seed', '9'], env)
    assert.deepEqual([flags['batch'], flags['force'], flags['seed'], flags['tag'], flags['k']], [8, true, 9, ['a', 'b'], ['5', '6']])
    assert.deepEqual(flags['max-bad'], {kind: 'count', value: 7})
    assert.deepEqual([sources['batch'], sources['seed'], sources['engine']], ['DINOV2_BATCH', 'command line', 'default'])
    assert.ok(!flags['verbose'])
  })

  it('names the variable when its value is wrong', async () => {
    const {status, stderr} = await run(program, ['probe', 'x'], {env: {DINOV2_ENGINE: 'abacus'}})
    assert.equal(status, 2)
    assert.match(stderr, /DINOV2_ENGINE/)
    assert.match((await run(program, ['probe', 'x'], {env: {DINOV2_FORCE: 'perhaps'}})).stderr, /DINOV2_FORCE=perhaps/)
  })

  it('reads flags from --config below the environment, and refuses what it does not know', async () => {
    const dir = folder()
    const file = join(dir, 'own.yaml')
    writeFileSync(file, 'batch: 16\nthreads: 2\nforce: false\ntag: [x, y]\nmax-bad: 3%\n')
    const {flags, sources} = await show(['--config', file, '--set', 'threads=3'], {DINOV2_BATCH: '8'})
    assert.deepEqual([flags['batch'], flags['threads'], flags['force'], flags['tag']], [8, 3, undefined, ['x', 'y']])
    assert.deepEqual(flags['max-bad'], {kind: 'percent', value: 3})
    assert.deepEqual([sources['threads'], sources['tag']], ['--set', `${file}:4`])
    for (const line of ['force: true', 'output: theirs.txt', 'bad: theirs.txt']) {
      writeFileSync(file, `${line}\n`)
      const refused = await probe('x', '--config', file)
      assert.equal(refused.status, 2)
      assert.match(refused.stderr, /own\.yaml:1: (force|output|bad) decides what is written/)
    }
    writeFileSync(file, 'bacth: 16\noptim:\n  epochs: 3\n')
    const {status, stderr} = await probe('x', '--config', file)
    assert.equal(status, 2)
    assert.match(stderr, /own\.yaml:1: there is no setting bacth\. Did you mean batch\?/)
    assert.match(stderr, /own\.yaml:3: optim\.epochs is a setting of training/)
    assert.equal((await probe('x', '--config', join(dir, 'none.yaml'))).status, 2)
  })

  it('prints what is in force as a file that gives the same', async () => {
    const {stdout, status} = await run(program, ['probe', 'x', '--print-config', '--batch', '4'], {env: {DINOV2_THREADS: '2'}})
    assert.equal(status, 0)
    assert.match(stdout, /^batch: 4 +# command line$/m)
    assert.match(stdout, /^threads: 2 +# DINOV2_THREADS$/m)
    assert.match(stdout, /^output: "-" +# default$/m)
    const file = join(folder(), 'again.yaml')
    writeFileSync(file, stdout)
    const again = await run(program, ['probe', 'x', '--print-config', '--config', file])
    assert.equal(again.stdout.replaceAll(/ *#.*/g, ''), stdout.replaceAll(/ *#.*/g, ''))
  })

  it('lays settings over each other: defaults, files, --set, --seed', async () => {
    const file = join(folder(), 'run.yaml')
    writeFileSync(file, 'optim:\n  epochs: 7\ntrain:\n  batch: 12\n  seed: 5\nquiet: true\n')
    const learn = async (...args: string[]): Promise<unknown> => JSON.parse((await run(program, ['learn', 'x', '--json', ...args])).stdout)
    assert.deepEqual(await learn('--config', file), {epochs: 7, seed: 5, batch: 12, from: `${file}:2`})
    assert.deepEqual(await learn('--config', file, '--set', 'optim.epochs=3', '--seed', '9'), {
      epochs: 3,
      seed: 9,
      batch: 12,
      from: '--set'
    })
    assert.match(((await learn('--config', 'small')) as {from: string}).from, /^small:\d+$/)
    const printed = await run(program, ['learn', 'x', '--config', file, '--print-config'])
    assert.match(printed.stdout, /^ {2}epochs: 7 +# .*run\.yaml:2$/m)
    const wrong = await run(program, ['learn', 'x', '--set', 'optim.epohs=3', '--set', 'train.seed=-1', '--set', 'dino.loss_weight=much'])
    assert.equal(wrong.status, 2)
    assert.match(wrong.stderr, /no setting optim\.epohs\. Did you mean optim\.epochs\?/)
  })
})

describe('outputs', {concurrency: 2}, () => {
  it('appear whole, and are not replaced without --force', async () => {
    const dir = folder()
    const file = join(dir, 'rows')
    assert.equal((await probe('x', '-o', file)).status, 0)
    assert.equal(readFileSync(file, 'utf8'), 'row 0\nrow 1\nrow 2\n')
    const again = await probe('x', '-o', file)
    assert.deepEqual([again.status, /exists[\s\S]*--force/.test(again.stderr)], [2, true])
    assert.equal((await probe('x', '-o', file, '-f', '--rows', '1')).status, 0)
    assert.equal(readFileSync(file, 'utf8'), 'row 0\n')
    assert.deepEqual(readdirSync(dir), ['rows'])
    assert.equal((await probe('x', '-o', join(dir, 'no', 'where'))).status, 2)
  })

  it('are refused at the start where the folder of --bad does not exist', async () => {
    const {status, stderr, stdout} = await run(program, ['probe', 'x', '--bad', join(folder(), 'nowhere', 'bad.jsonl')])
    assert.equal(status, 2)
    assert.match(stderr, /The folder of .*bad\.jsonl does not exist\.\n\s+mkdir -p /)
    assert.equal(stdout, '')
  })

  it('are empty files where there was nothing to write', async () => {
    const dir = folder()
    const output = await openOutput(join(dir, 'rows'))
    await output.commit()
    assert.equal(readFileSync(join(dir, 'rows'), 'utf8'), '')
    assert.deepEqual(readdirSync(dir), ['rows'])
  })

  it('leave the old file and no other when there were too many bad inputs', async () => {
    const dir = folder()
    const file = join(dir, 'rows')
    writeFileSync(file, 'old')
    const bad = join(dir, 'bad.jsonl')
    assert.equal((await probe('x', '-o', file, '-f', '--refuse', '30', '--bad', bad)).status, 4)
    assert.equal(readFileSync(file, 'utf8'), 'old')
    const lines = readFileSync(bad, 'utf8').trimEnd().split('\n')
    assert.equal(lines.length, 30)
    assert.deepEqual(JSON.parse(lines[0]!), {id: 'bad0', path: 'bad0.jpg', reason: 'truncated'})
    assert.deepEqual(readdirSync(dir).sort(), ['bad.jsonl', 'rows'])
  })
})

describe('signals', {concurrency: 2, timeout: 30_000}, () => {
  for (const [signal, status] of [
    ['SIGINT', 130],
    ['SIGTERM', 143]
  ] as const) {
    it(`finish the step at the first ${signal} and leave with ${status}`, async () => {
      const file = join(folder(), 'rows')
      const {child, ended} = start(program, ['probe', 'x', '--wait', 'watching', '-o', file, '--rows', '0'], {input: null})
      await said(child, 'waiting')
      child.kill(signal)
      const {status: left, stderr} = await ended
      assert.equal(left, status)
      assert.match(stderr, /finishing this step/)
      assert.equal(readFileSync(file, 'utf8'), 'first\nfinished cleanly\n')
    })
  }

  it('leave at once at the second, with nothing half written', async () => {
    const dir = folder()
    const {child, ended} = start(program, ['probe', 'x', '--wait', 'watching', '-o', join(dir, 'rows')], {env: {PROBE_SLOW: '1'}})
    await said(child, 'waiting')
    child.kill('SIGINT')
    await said(child, 'finishing')
    const began = Date.now()
    child.kill('SIGINT')
    assert.equal((await ended).status, 130)
    assert.ok(Date.now() - began < 3000)
    assert.deepEqual(readdirSync(dir), [])
  })

  it('end a command that does not watch them at once', async () => {
    const dir = folder()
    const {child, ended} = start(program, ['probe', 'x', '--wait', 'blind', '-o', join(dir, 'rows')])
    await said(child, 'waiting')
    child.kill('SIGTERM')
    assert.equal((await ended).status, 143)
    assert.deepEqual(readdirSync(dir), [])
  })
})

describe('help', {concurrency: 2}, () => {
  it('lists commands by purpose', async () => {
    const {stdout, status} = await run(program, ['--help'])
    assert.equal(status, 0)
    assert.match(stdout, /DATA\n +probe +Do what a test asks\.\n\nTRAINING\n +learn[\s\S]*ENGINE\n +topic one/)
    assert.equal((await run(program, [])).stdout, stdout)
    assert.equal((await run(program, ['help'])).stdout, stdout)
  })

  it('shows a command: usage, examples, flags, statuses', async () => {
    const {stdout} = await run(program, ['help', 'topic', 'one'])
    assert.match(stdout, /\$ fixture topic one INDEX \[IMAGES…\] \[FLAGS\]/)
    for (const heading of ['EXAMPLES', 'ARGUMENTS', 'REPORT FLAGS', 'EXIT STATUS', 'ENVIRONMENT'])
      assert.ok(stdout.includes(heading), heading)
    assert.match(stdout, /REPORT FLAGS\n {6}--json /) // in the column of the flags below it, which have a letter
    assert.equal((await run(program, ['topic', 'one', '-h'])).stdout, stdout)
    assert.match((await run(program, ['topic', '--help'])).stdout, /topic one/)
  })

  it('prints the version', async () => {
    assert.equal((await run(program, ['--version'])).stdout, 'fixture 1.2.3\n')
  })

  it('has no colour under --no-color, NO_COLOR and TERM=dumb', async () => {
    const coloured = await run(program, ['--help'], {env: {FORCE_COLOR: '1'}})
    assert.ok(coloured.stdout.includes('\u001B['))
    for (const [args, env] of [
      [['--help', '--no-color'], {FORCE_COLOR: '1'}],
      [['--help'], {NO_COLOR: '1'}],
      [['--help'], {TERM: 'dumb'}]
    ] as const) {
      assert.ok(!(await run(program, args, {env})).stdout.includes('\u001B['), JSON.stringify([args, env]))
    }
  })
})
