/** Starts the program as a launcher of several processes does: with their numbers in the environment. */
import {createServer} from 'node:net'
import {CommandServer, realBinary, start, type Ended} from './program.js'

/** A port of this machine that nobody listens at. */
export const freePort = (): Promise<number> =>
  new Promise((resolve, reject) => {
    const server = createServer().once('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const {port} = server.address() as {port: number}
      server.close(() => resolve(port))
    })
  })

export type Together = {readonly children: readonly ReturnType<typeof start>[]; readonly ended: Promise<Ended[]>}

/** Starts `size` processes with the arguments that `args` gives each, without a launcher that would end them. */
export async function startTogether(
  size: number,
  args: (rank: number) => readonly string[],
  env: Readonly<Record<string, string>> = {},
  program: (rank: number) => string = () => realBinary
): Promise<Together> {
  const port = String(await freePort())
  const children = Array.from({length: size}, (_, rank) =>
    start(program(rank), args(rank), {env: {...numbersOf(rank, size), MASTER_PORT: port, ...env}})
  )
  return {children, ended: Promise.all(children.map(({ended}) => ended))}
}

/** Several processes that stay, for many commands that run in all of them at a time. */
export class ServersTogether {
  readonly #servers: readonly CommandServer[]

  constructor(size: number, cwd: string) {
    this.#servers = Array.from({length: size}, (_, rank) => new CommandServer({env: numbersOf(rank, size), cwd}))
  }

  /** Runs a command in all processes, with the arguments that `args` gives each; they meet at a port of their own. */
  async run(args: (rank: number) => readonly string[], env: Readonly<Record<string, string>> = {}): Promise<Ended[]> {
    const meeting = {MASTER_PORT: String(await freePort()), ...env}
    return Promise.all(this.#servers.map((server, rank) => server.runIn(meeting, args(rank))))
  }

  async end(): Promise<void> {
    await Promise.all(this.#servers.map(server => server.end()))
  }
}

/** What a launcher says to a process of one machine. */
const numbersOf = (rank: number, size: number): Record<string, string> => ({
  RANK: String(rank),
  WORLD_SIZE: String(size),
  LOCAL_RANK: String(rank),
  LOCAL_WORLD_SIZE: String(size),
  MASTER_ADDR: '127.0.0.1'
})
