/** A cluster of Slurm on this machine alone, where Slurm is installed: for as long as a test runs, as this user. */
import {spawn, spawnSync} from 'node:child_process'
import {once} from 'node:events'
import {mkdirSync, openSync, closeSync, writeFileSync} from 'node:fs'
import {hostname, userInfo} from 'node:os'
import {join} from 'node:path'
import {setTimeout as sleep} from 'node:timers/promises'
import {freePort} from './processes.js'

export type Slurm = {
  /** What `srun` and its kind need in their environment. */
  readonly env: Readonly<Record<string, string>>
  readonly end: () => Promise<void>
}

/** Whether a program is installed; srun fails without a cluster, whatever it is asked. */
const isThere = (program: string): boolean => spawnSync(program, ['-V']).error === undefined

/** Starts the daemons with their files in `folder`; undefined where Slurm is not installed or does not come up. */
export async function startSlurm(folder: string): Promise<Slurm | undefined> {
  if (!['slurmctld', 'slurmd', 'srun'].every(isThere)) return undefined
  for (const name of ['state', 'spool']) mkdirSync(join(folder, name), {recursive: true})
  const {username} = userInfo()
  const conf = join(folder, 'slurm.conf')
  writeFileSync(
    conf,
    `
ClusterName=test
SlurmctldHost=${hostname()}(127.0.0.1)
SlurmUser=${username}
SlurmdUser=${username}
AuthType=auth/none
CredType=cred/none
StateSaveLocation=${folder}/state
SlurmdSpoolDir=${folder}/spool
SlurmctldPidFile=${folder}/slurmctld.pid
SlurmdPidFile=${folder}/slurmd.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SlurmctldPort=${await freePort()}
SlurmdPort=${await freePort()}
NodeName=localhost NodeHostname=${hostname()} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=localhost Default=YES MaxTime=INFINITE State=UP
`
  )
  const env = {SLURM_CONF: conf}
  const log = openSync(join(folder, 'slurm.log'), 'w')
  const daemons = [
    ['slurmctld', '-D', '-c', '-f', conf],
    ['slurmd', '-D', '-N', 'localhost', '-f', conf]
  ].map(([program, ...args]) => spawn(program!, args, {stdio: ['ignore', log, log], env: {...process.env, ...env}}))
  closeSync(log)
  const end = async (): Promise<void> => {
    for (const daemon of daemons)
      if (daemon.exitCode === null && daemon.signalCode === null) {
        const ended = once(daemon, 'exit')
        daemon.kill('SIGTERM')
        await ended
      }
  }
  for (let tries = 0; tries < 40; tries++) {
    await sleep(250)
    const {stdout} = spawnSync('sinfo', ['-h', '-o', '%t'], {env: {...process.env, ...env}, encoding: 'utf8', timeout: 5000})
    if (stdout?.includes('idle')) return {env, end}
  }
  await end()
  return undefined
}
