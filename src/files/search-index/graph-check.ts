/**
 * Whether the bytes of a graph can be handed to hnswlib: it follows every link that it is given, so one that leads
 * nowhere is a crash of the whole process.
 *
 * Layout (hnswlib 0.8, `saveIndex`): a head of 96 bytes; for each node its links on the lowest level, its vector and
 * its label; then for each node the size of its links on higher levels, and those links.
 */

/** What the index says of its graph. */
export type GraphExpectation = {
  readonly dim: number
  /** Labels are smaller than this. */
  readonly rows: number
  /** Nodes that are not marked as removed. */
  readonly live: number
  /** Whether the row of this label was removed. */
  readonly isRemoved: (label: number) => boolean
}

type Read = (at: number, length: number) => Promise<Buffer>

const HEAD_BYTES = 96
/** No graph has more levels: each has a sixteenth of the nodes of the one below. */
const MAX_LEVEL = 64
const STRETCH = 4 << 20

type Head = {
  readonly nodes: number
  readonly nodeBytes: number
  readonly labelAt: number
  readonly vectorAt: number
  readonly maxLevel: number
  readonly entry: number
  /** Links of a node on the lowest level and on higher ones, at most. */
  readonly links0: number
  readonly links: number
}

const fail = (why: string): never => {
  throw new RangeError(`its graph ${why}`)
}

function number64(bytes: Buffer, at: number): number {
  const value = bytes.readBigUInt64LE(at)
  return value > BigInt(Number.MAX_SAFE_INTEGER) ? Infinity : Number(value)
}

/** Reads the head and holds its figures against each other. */
function readHead(bytes: Buffer, total: number, {dim, rows}: GraphExpectation): Head {
  if (bytes.length < HEAD_BYTES) fail('is cut off')
  const [offset, capacity, nodes, nodeBytes, labelAt, vectorAt] = [0, 8, 16, 24, 32, 40].map(at => number64(bytes, at)) as [
    number,
    number,
    number,
    number,
    number,
    number
  ]
  const [maxLevel, entry] = [bytes.readInt32LE(48), bytes.readUInt32LE(52)]
  const [links, links0, m] = [56, 64, 72].map(at => number64(bytes, at)) as [number, number, number]
  if (offset !== 0 || links !== m || links0 !== 2 * m || m < 1 || m > 65_535) fail('has impossible figures')
  if (vectorAt !== 4 * links0 + 4 || labelAt !== vectorAt + 4 * dim || nodeBytes !== labelAt + 8) fail('is of vectors of another length')
  if (nodes > rows || capacity < nodes || capacity > 2 * rows + 1) fail(`has ${nodes} nodes for ${rows} rows`)
  if (HEAD_BYTES + nodes * (nodeBytes + 4) > total) fail('is cut off')
  if (nodes === 0 ? maxLevel !== -1 : maxLevel < 0 || maxLevel > MAX_LEVEL || entry >= nodes) fail('begins nowhere')
  if (!(bytes.readDoubleLE(80) > 0)) fail('has impossible figures')
  return {nodes, nodeBytes, labelAt, vectorAt, maxLevel, entry, links0, links}
}

/** Holds the nodes of the lowest level against what there is: links, vectors and labels. */
async function checkNodes(read: Read, head: Head, {rows, live, isRemoved}: GraphExpectation): Promise<void> {
  const {nodes, nodeBytes, labelAt, vectorAt, links0} = head
  const seen = new Uint8Array(rows)
  const step = Math.max(1, Math.floor(STRETCH / nodeBytes))
  let present = 0
  for (let from = 0; from < nodes; from += step) {
    const n = Math.min(step, nodes - from)
    const bytes = await read(HEAD_BYTES + from * nodeBytes, n * nodeBytes)
    for (let at = 0; at < bytes.length; at += nodeBytes) {
      const count = bytes.readUInt16LE(at)
      if (count > links0) fail('has a node with too many links')
      for (let i = 1; i <= count; i++) if (bytes.readUInt32LE(at + 4 * i) >= nodes) fail('has a link that leads nowhere')
      for (let d = at + vectorAt; d < at + labelAt; d += 4)
        if (!Number.isFinite(bytes.readFloatLE(d))) fail('has a vector with a number that is not finite')
      const label = number64(bytes, at + labelAt)
      if (label >= rows || seen[label] === 1) fail('names a row that there is not, or one row twice')
      seen[label] = 1
      const removed = (bytes[at + 2]! & 1) === 1
      if (!removed) present++
      if (removed !== isRemoved(label)) fail('does not agree with the table of rows about what was removed')
    }
  }
  if (present !== live) fail(`has ${present} rows, but the index counts ${live}`)
}

/** Holds the links of higher levels against the levels that nodes have. */
function checkLevels(bytes: Buffer, {nodes, links, maxLevel, entry}: Head): void {
  const size = 4 * links + 4
  const starts = new Float64Array(nodes)
  const levels = new Uint8Array(nodes)
  let at = 0
  for (let node = 0; node < nodes; node++) {
    if (at + 4 > bytes.length) fail('is cut off')
    const length = bytes.readUInt32LE(at)
    if (length % size !== 0 || length / size > maxLevel || at + 4 + length > bytes.length) fail('has a node of an impossible level')
    starts[node] = at + 4
    levels[node] = length / size
    at += 4 + length
  }
  if (at !== bytes.length) fail('is longer than its nodes')
  if (nodes > 0 && levels[entry] !== maxLevel) fail('begins nowhere')
  for (let node = 0; node < nodes; node++) {
    for (let level = 1; level <= levels[node]!; level++) {
      const list = starts[node]! + (level - 1) * size
      const count = bytes.readUInt16LE(list)
      if (count > links) fail('has a node with too many links')
      for (let i = 1; i <= count; i++) {
        const to = bytes.readUInt32LE(list + 4 * i)
        if (to >= nodes || levels[to]! < level) fail('has a link that leads nowhere')
      }
    }
  }
}

/** Checks a graph of `total` bytes. Throws `RangeError` where hnswlib must not be given it. */
export async function checkGraph(read: Read, total: number, expected: GraphExpectation): Promise<void> {
  const head = readHead(await read(0, Math.min(HEAD_BYTES, total)), total, expected)
  await checkNodes(read, head, expected)
  const from = HEAD_BYTES + head.nodes * head.nodeBytes
  checkLevels(await read(from, total - from), head)
}
