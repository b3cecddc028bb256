/** Starts the program as a launcher of several processes does: with their numbers in the environment. */
import {createServer} from 'node:net'
import {realBinary, start, type Ended} from './program.js'

/** A port of this machine that nobody listens at. */
const freePort = (): Promise<number> =>
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
  env: Readonly<Record<string, string>> = {}
): Promise<Together> {
  const port = await freePort()
  const children = Array.from({length: size}, (_, rank) =>
    start(realBinary, args(rank), {
      env: {
        RANK: String(rank),
        WORLD_SIZE: String(size),
        LOCAL_RANK: String(rank),
        LOCAL_WORLD_SIZE: String(size),
        MASTER_ADDR: '127.0.0.1',
        MASTER_PORT: String(port),
        ...env
      }
    })
  )
  return {children, ended: Promise.all(children.map(({ended}) => ended))}
}
