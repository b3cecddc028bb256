/**
 * Tar shards by the rules of webdataset: members that share a key are one sample, shards are numbered, and the same
 * samples give the same bytes.
 */
import {createWriteStream} from 'node:fs'
import {join} from 'node:path'
import {finished} from 'node:stream/promises'
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
      open = {tar, done: finished(tar.pipe(file))}
      inShard = 0
    }
    for (const [ending, bytes] of Object.entries(parts)) {
      const {tar} = open
      await new Promise<void>((resolve, reject) => {
        tar.entry(
          {name: `${key}.${ending}`, size: bytes.length, mtime: new Date(0), mode: 0o644},
          Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength),
          error => (error ? reject(error) : resolve())
        )
      })
    }
    inShard++
  }
  await close()
  return shards
}
