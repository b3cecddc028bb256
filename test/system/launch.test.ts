/** Which of several processes this is, by the environments of launchers. */
import assert from 'node:assert/strict'
import {describe, test} from 'node:test'
import {UserError} from '../../src/config/errors.js'
import {launchOf} from '../../src/system/launch.js'

describe('launchOf', () => {
  test('one process is no launch, and a batch script of Slurm is one process', () => {
    assert.equal(launchOf({}), undefined)
    assert.equal(launchOf({RANK: '0', WORLD_SIZE: '1'}), undefined)
    assert.equal(launchOf({SLURM_PROCID: '0', SLURM_NTASKS: '8', SLURM_JOB_NODELIST: 'a[1-8]'}), undefined)
  })

  test('torchrun: its agent keeps the store', () => {
    const launch = launchOf({
      ...{RANK: '3', WORLD_SIZE: '4', LOCAL_RANK: '1', LOCAL_WORLD_SIZE: '2', MASTER_ADDR: 'node01', MASTER_PORT: '1234'},
      ...{TORCHELASTIC_RESTART_COUNT: '2', TORCHELASTIC_RUN_ID: 'x', TORCHELASTIC_USE_AGENT_STORE: 'True'}
    })
    assert.deepEqual(launch, {
      rank: 3,
      size: 4,
      localRank: 1,
      localSize: 2,
      deviceNumber: 1,
      host: 'node01',
      port: 1234,
      restart: 2,
      keepsStore: false,
      id: 'x'
    })
  })

  test('mpirun on one machine needs no address; on several it does', () => {
    const local = {OMPI_COMM_WORLD_RANK: '0', OMPI_COMM_WORLD_SIZE: '2', OMPI_COMM_WORLD_LOCAL_RANK: '0', OMPI_COMM_WORLD_LOCAL_SIZE: '2'}
    const {host, keepsStore} = launchOf(local)!
    assert.deepEqual([host, keepsStore], ['127.0.0.1', true])
    const [one, other] = ['111', '222'].map(start => launchOf({...local, PMIX_NAMESPACE: start})!)
    assert.notEqual(one!.id, other!.id, 'two starts at the same time do not meet')
    assert.notEqual(one!.port, other!.port)
    assert.throws(
      () => launchOf({...local, OMPI_COMM_WORLD_LOCAL_SIZE: '1'}),
      (error: unknown) => error instanceof UserError && error.exit === 2 && /MASTER_ADDR/.test(error.message)
    )
  })

  test('srun: the first machine of the list, and a port of the job', () => {
    const of = (list: string) =>
      launchOf({SLURM_PROCID: '5', SLURM_STEP_NUM_TASKS: '8', SLURM_LOCALID: '1', SLURM_STEP_NODELIST: list, SLURM_JOB_ID: '1234567'})!
    assert.deepEqual([of('gpu[03-04,07],login').host, of('a1,b2').host, of('solo').host], ['gpu03', 'a1', 'solo'])
    assert.equal(of('solo').port, 24567)
    assert.equal(of('solo').id, '1234567.0')
    const step = {SLURM_PROCID: '0', SLURM_STEP_NUM_TASKS: '2', SLURM_STEP_NODELIST: 'solo', SLURM_JOB_ID: '1234567', SLURM_STEP_ID: '3'}
    assert.deepEqual([launchOf(step)!.port, launchOf(step)!.id], [24870, '1234567.3'], 'two steps of one job do not meet')
    assert.equal(of('solo').rank, 5)
  })

  test('srun with machines of unequal tasks: each has its own number of them, and the device of its place there', () => {
    // Seven tasks, two on each of three machines and one on the last.
    const all = Array.from({length: 7}, (_, rank) => {
      const task = {SLURM_PROCID: `${rank}`, SLURM_LOCALID: `${rank % 2}`, SLURM_NODEID: `${Math.floor(rank / 2)}`}
      const step = {SLURM_STEP_NUM_TASKS: '7', SLURM_STEP_TASKS_PER_NODE: '2(x3),1', SLURM_STEP_NODELIST: 'n[1-4]', SLURM_JOB_ID: '5'}
      return launchOf({...task, ...step})!
    })
    assert.deepEqual(
      all.map(({localSize}) => localSize),
      [2, 2, 2, 2, 2, 2, 1]
    )
    assert.deepEqual(
      all.map(({deviceNumber}) => deviceNumber),
      [0, 1, 0, 1, 0, 1, 0]
    )
    assert.deepEqual([...new Set(all.map(({host, port}) => `${host}:${port}`))], ['n1:20005'], 'all meet at one place')
    const one = {SLURM_PROCID: '3', SLURM_STEP_NUM_TASKS: '7', SLURM_LOCALID: '1', SLURM_STEP_NODELIST: 'n[1-4]'}
    const sizeOf = (more: Record<string, string>) => launchOf({...one, ...more})!.localSize
    assert.equal(sizeOf({SLURM_STEP_TASKS_PER_NODE: '1,3(x2)', SLURM_NODEID: '2'}), 3)
    assert.equal(sizeOf({SLURM_STEP_TASKS_PER_NODE: '1,3(x2)'}), 3, 'the most, where the machine is not known')
    assert.equal(sizeOf({SLURM_TASKS_PER_NODE: '2(x3),1', SLURM_NODEID: '3'}), 1, 'of the job, where it is of as many tasks')
    assert.equal(sizeOf({SLURM_TASKS_PER_NODE: '8(x4)', SLURM_NODEID: '3'}), 1, 'not of a job of more tasks than the step')
    assert.throws(
      () => sizeOf({SLURM_STEP_TASKS_PER_NODE: '2(y3)'}),
      (error: unknown) => error instanceof UserError && error.exit === 2 && /SLURM_STEP_TASKS_PER_NODE=2\(y3\)/.test(error.message)
    )
  })

  test('a launcher that shows each process one device: it is number 0 there', () => {
    const second = {RANK: '1', WORLD_SIZE: '2', LOCAL_RANK: '1', LOCAL_WORLD_SIZE: '2', MASTER_ADDR: 'a'}
    const number = (seen?: string) => launchOf({...second, ...(seen === undefined ? {} : {CUDA_VISIBLE_DEVICES: seen})})!.deviceNumber
    assert.deepEqual([number(), number('0,1'), number('1'), number('GPU-8f3c'), number('')], [1, 1, 0, 0, 1])
  })

  test('numbers that contradict each other are a usage error', () => {
    for (const environment of [
      {RANK: '4', WORLD_SIZE: '4'},
      {RANK: 'x', WORLD_SIZE: '2'}
    ])
      assert.throws(
        () => launchOf({...environment, MASTER_ADDR: 'a'}),
        (error: unknown) => error instanceof UserError && error.exit === 2
      )
  })
})
