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
