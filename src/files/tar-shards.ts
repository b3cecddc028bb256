/**
 * Tar shards by the rules of webdataset: members that share a key are one sample, shards are numbered, and the same
 * samples give the same bytes.
 */
import {createWriteStream} from 'node:fs'
import {join} from 'node:path'
import {pipeline} from 'node:stream/promises'
import {pack, type Pack} from 'tar-stream'

/** Samples: parts by ending, e.g. `{jpg: …, json: …}`. */
export type TarSample = {readonly key: string; readonly parts: Readonly<Record<string, Uint8Array>>}

/** Writes `000000.tar`, `000001.tar`, … of `perShard` samples each into `folder`; → how many shards. */
export async function writeShards(folder: string, samples: AsyncIterable<TarSample>, perShard: number): Promise<number> {
  let [shards, inShard] = [0, 0]
  let open: {tar: Pack; done: Promise<void>} | undefined
  const close = async (): Promise<void> => {
    if (!open) return
    open.tar.finalize()
    await open.done
    open = undefined
  }
  for await (const {key, parts} of samples) {
    if (inShard === perShard) await close()
    if (!open) {
      const tar = pack()
      const file = createWriteStream(join(folder, `${String(shards++).padStart(6, '0')}.tar`))
      const done = pipeline(tar, file)
      done.catch(() => undefined) // met where the next part is written
      open = {tar, done}
      inShard = 0
    }
    for (const [ending, bytes] of Object.entries(parts)) {
      const {tar, done} = open
      const written = new Promise<void>((resolve, reject) => {
        const entry = tar.entry(
          {name: `${key}.${ending}`, size: bytes.length, mtime: new Date(0), mode: 0o644},
          Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength),
          error => (error ? reject(error) : resolve())
        )
        entry.on('error', reject) // of the file, told to each part that it has not taken
      })
      await Promise.race([written, done.then(() => written)]) // a full disk ends the file, and the part is never taken
    }
    inShard++
  }
  await close()
  return shards
}
