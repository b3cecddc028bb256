/** Tar archives put together in memory, for tests of shards. */
import {pack} from 'tar-stream'

/** A tar with these members. */
export async function tarOf(members: readonly (readonly [name: string, content: string | Buffer])[]): Promise<Buffer> {
  const tar = pack()
  for (const [name, content] of members) tar.entry({name}, content)
  tar.finalize()
  const parts: Buffer[] = []
  for await (const part of tar) parts.push(part as Buffer)
  return Buffer.concat(parts)
}
