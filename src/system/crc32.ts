/**
 * CRC-32 (IEEE 802.3) of bytes, continued from `value`. Node.js has it from versions 20.15 and 22.2 on; a table
 * stands in before.
 */
import zlib from 'node:zlib'

const table = Uint32Array.from({length: 256}, (_, n) => {
  let value = n
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1
  return value
})

function crc32Reference(bytes: Uint8Array, value = 0): number {
  let crc = ~value
  for (const byte of bytes) crc = (crc >>> 8) ^ table[(crc ^ byte) & 0xff]!
  return ~crc >>> 0
}

export const crc32: (bytes: Uint8Array, value?: number) => number =
  (zlib as {crc32?: (bytes: Uint8Array, value?: number) => number}).crc32 ?? crc32Reference

/** A CRC-32 as it is written: eight hexadecimal digits. */
export const crcText = (crc: number): string => crc.toString(16).padStart(8, '0')
