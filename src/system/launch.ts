/**
 * Which of several processes this is, as `torchrun`, `mpirun` or `srun` says in the environment.
 *
 * Nothing here connects to anything. Where no launcher started this process, or it started one alone, there is no
 * launch, and nothing of process groups is loaded.
 */
import {createHash} from 'node:crypto'
import {UserError} from '../config/errors.js'

export type Launch = {
  /** Number of this process among all, from 0. */
  readonly rank: number
  /** Number of processes. */
  readonly size: number
  /** Number of this process among those of its machine. */
  readonly localRank: number
  /** Processes on this machine. */
  readonly localSize: number
  /** Number of the device of this process among those that it sees: 0 where the launcher shows each its own. */
  readonly deviceNumber: number
  /** Where the processes meet. */
  readonly host: string
  readonly port: number
  /** How often the launcher has started the processes anew. */
  readonly restart: number
  /** Whether this process keeps the store in which they meet; torchrun keeps one of its own. */
  readonly keepsStore: boolean
  /** What tells this start from others that use the same store. */
  readonly id: string
}

type Environment = Readonly<Record<string, string | undefined>>

/** Names of rank, size, local rank and local size by launcher. */
const launchers = [
  {name: 'torchrun', rank: 'RANK', size: 'WORLD_SIZE', localRank: 'LOCAL_RANK', localSize: 'LOCAL_WORLD_SIZE'},
  {
    name: 'mpirun (Open MPI)',
    rank: 'OMPI_COMM_WORLD_RANK',
    size: 'OMPI_COMM_WORLD_SIZE',
    localRank: 'OMPI_COMM_WORLD_LOCAL_RANK',
    localSize: 'OMPI_COMM_WORLD_LOCAL_SIZE'
  },
  // Set by srun alone: SLURM_NTASKS stands in the environment of a batch script too, which is one process.
  {name: 'srun', rank: 'SLURM_PROCID', size: 'SLURM_STEP_NUM_TASKS', localRank: 'SLURM_LOCALID', localSize: 'SLURM_STEP_TASKS_PER_NODE'},
  {name: 'mpirun (PMI)', rank: 'PMI_RANK', size: 'PMI_SIZE', localRank: 'MPI_LOCALRANKID', localSize: 'MPI_LOCALNRANKS'}
] as const

/**
 * The first name of a list of machines as Slurm writes it: `gpu[03-07,12],login1` begins with `gpu03`.
 */
function firstHost(list: string): string {
  const [, head, rest] = /^([^[,]*)(?:\[([^\]]*)\])?/.exec(list)!
  return head! + (rest === undefined ? '' : /^\d+/.exec(rest)![0])
}

/**
 * Tasks on one machine of a step, as Slurm writes the numbers of all: `2(x3),1` are 2, 2, 2 and 1. Where the machine
 * is not known, the most that any has, so that no machine starts more threads than it has cores.
 */
function tasksOfMachine(environment: Environment, size: number): number {
  const runs = (name: string): {tasks: number; machines: number}[] =>
    (environment[name] ?? '')
      .split(',')
      .filter(text => text !== '')
      .map(text => {
        const [, tasks, machines = '1'] =
          /^(\d+)(?:\(x(\d+)\))?$/.exec(text) ?? usage(`${name}=${environment[name]}: expected numbers such as 2(x3),1, as srun sets them.`)
        return {tasks: Number(tasks), machines: Number(machines)}
      })
  const ofStep = runs('SLURM_STEP_TASKS_PER_NODE')
  const ofJob = ofStep.length > 0 ? [] : runs('SLURM_TASKS_PER_NODE')
  const all = ofStep.length > 0 || ofJob.reduce((sum, {tasks, machines}) => sum + tasks * machines, 0) !== size ? ofStep : ofJob
  let before = 0
  for (const {tasks, machines} of all) {
    before += machines
    if (environment['SLURM_NODEID'] && Number(environment['SLURM_NODEID']) < before) return tasks
  }
  return Math.max(1, ...all.map(({tasks}) => tasks))
}

const usage = (message: string): never => {
  throw new UserError(message, {exit: 2, code: 'USAGE'})
}

/** What tells the processes of one start from those of another on the same machines, where the launcher says it. */
function idOf(environment: Environment, launcher: string): string {
  const {TORCHELASTIC_RUN_ID: run, PMIX_NAMESPACE: start, SLURM_JOB_ID: job, SLURM_STEP_ID: step = '0'} = environment
  if (launcher === 'torchrun') return run ?? 'run'
  return launcher === 'srun' && job !== undefined ? `${job}.${step}` : (start ?? 'run')
}

/** A port for the processes of one start, so that two starts on one machine do not meet. */
const portOf = (id: string): number => (id === 'run' ? 29500 : 20000 + (createHash('sha256').update(id).digest().readUInt32LE() % 10000))

/**
 * The launch of this process; undefined where it is alone. Throws a usage error where the environment contradicts
 * itself.
 */
export function launchOf(environment: Environment = process.env): Launch | undefined {
  const launcher = launchers.find(({size, rank}) => environment[size] !== undefined && environment[rank] !== undefined)
  if (!launcher) return undefined
  const whole = (name: string, otherwise: number): number => {
    const text = environment[name]
    if (text === undefined || text === '') return otherwise
    const value = Number(/^\d+/.exec(text)?.[0] ?? NaN)
    if (Number.isInteger(value)) return value
    return usage(`${name}=${text}: expected a whole number, as ${launcher.name} sets it.`)
  }
  const [rank, size] = [whole(launcher.rank, 0), whole(launcher.size, 1)]
  if (size <= 1) return undefined
  if (rank >= size) usage(`${launcher.rank}=${rank}: expected a number below ${launcher.size}=${size}.`)
  const localRank = whole(launcher.localRank, 0)
  const nodes = environment['SLURM_STEP_NODELIST'] ?? environment['SLURM_JOB_NODELIST']
  const host = environment['MASTER_ADDR'] ?? (launcher.name === 'srun' && nodes ? firstHost(nodes) : undefined)
  const step = whole('SLURM_STEP_ID', 0)
  const id = idOf(environment, launcher.name)
  const localSize = launcher.name === 'srun' ? tasksOfMachine(environment, size) : Math.max(1, whole(launcher.localSize, 1))
  if (host === undefined && localSize !== size)
    throw new UserError(`${size} processes on several machines need MASTER_ADDR, the name of the machine of process 0.`, {
      exit: 2,
      code: 'USAGE',
      hint: 'Set it for all processes, e.g. mpirun -x MASTER_ADDR=node01.'
    })
  return {
    rank,
    size,
    localRank,
    localSize,
    deviceNumber: /^[^,\s]+$/.test(environment['CUDA_VISIBLE_DEVICES'] ?? '') ? 0 : localRank,
    host: host ?? '127.0.0.1',
    port: whole('MASTER_PORT', launcher.name === 'srun' ? 20000 + ((whole('SLURM_JOB_ID', 9500) + 101 * step) % 10000) : portOf(id)),
    restart: whole('TORCHELASTIC_RESTART_COUNT', 0),
    keepsStore: rank === 0 && environment['TORCHELASTIC_USE_AGENT_STORE'] !== 'True',
    id
  }
}
