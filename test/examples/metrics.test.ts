/** The followers of metrics.jsonl in examples/metrics, run with a stand-in for the package that each sends to. */
import assert from 'node:assert/strict'
import {execFileSync} from 'node:child_process'
import {mkdirSync, readFileSync, writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {test} from 'node:test'
import {packageFolder} from '../../src/system/paths.js'
import {folder} from '../support/program.js'

/** A module that prints every call of any of its functions. */
const STAND_IN = `import json
def __getattr__(name):
    return lambda *args, **named: print(json.dumps([name, args, named]))
`

for (const [name, log] of [
  ['wandb', 'log'],
  ['mlflow', 'log_metrics'],
  ['trackio', 'log']
] as const)
  test(`${name}: every line is sent once, with its step, and a half-written one is not`, () => {
    const home = folder()
    writeFileSync(join(home, `${name}.py`), STAND_IN)
    mkdirSync(join(home, 'run'))
    writeFileSync(
      join(home, 'run/metrics.jsonl'),
      '{"step":10,"total":5.5,"lr":0.001}\n{"step":20,"total":5.25,"lr":0.002}\n{"step":30,"to'
    )
    const program = join(packageFolder(), 'examples/metrics', `to_${name}.py`)
    const env = {...process.env, PYTHONPATH: home, PYTHONDONTWRITEBYTECODE: '1'}
    const calls = execFileSync('python3', [program, join(home, 'run'), '--once'], {encoding: 'utf8', env})
      .trim()
      .split('\n')
      .map(line => JSON.parse(line) as [string, unknown[], {step?: number}])
    assert.deepEqual(
      calls.filter(([called]) => called === log).map(([, [numbers], {step}]) => [numbers, step]),
      [
        [{total: 5.5, lr: 0.001}, 10],
        [{total: 5.25, lr: 0.002}, 20]
      ]
    )
    assert.ok(readFileSync(program, 'utf8').split('\n').length < 40)
  })
