/** Pixels to image files: the only file besides `decode` that imports sharp. */
import sharp from 'sharp'

export type EncodedFormat = 'png' | 'jpeg'

/**
 * Encodes sRGB bytes [height, width, 3] (or, with `channels` 4, with alpha). The same pixels give the same bytes: no
 * date, no metadata.
 *
 * JPEG is written at quality 92 without chroma subsampling by default.
 */
export async function encodeImage(
  pixels: Uint8Array,
  {
    width,
    height,
    channels = 3,
    format = 'png',
    quality = 92
  }: {width: number; height: number; channels?: 3 | 4; format?: EncodedFormat; quality?: number}
): Promise<Uint8Array> {
  if (pixels.length !== width * height * channels)
    throw new RangeError(
      `Expected ${width * height * channels} bytes for ${width} × ${height} × ${channels} pixels but received ${pixels.length}.`
    )
  const image = sharp(pixels, {raw: {width, height, channels}})
  return format === 'png'
    ? image.png({compressionLevel: 6, adaptiveFiltering: true}).toBuffer()
    : image.jpeg({quality, chromaSubsampling: '4:4:4'}).toBuffer()
}

/** Encodes whole numbers [height, width] as a grey PNG of 16 bits: maps of depth. */
export async function encodeGrey16(values: Uint16Array, {width, height}: {width: number; height: number}): Promise<Uint8Array> {
  if (values.length !== width * height)
    throw new RangeError(`Expected ${width * height} numbers for ${width} × ${height} pixels but received ${values.length}.`)
  return sharp(values, {raw: {width, height, channels: 1}})
    .toColourspace('grey16')
    .png({compressionLevel: 6, adaptiveFiltering: true})
    .toBuffer()
}

/** Encodes numbers 0 to 255 [height, width] as a grey PNG of 8 bits: masks of class numbers. */
export async function encodeGrey8(values: Uint8Array, {width, height}: {width: number; height: number}): Promise<Uint8Array> {
  if (values.length !== width * height)
    throw new RangeError(`Expected ${width * height} numbers for ${width} × ${height} pixels but received ${values.length}.`)
  return sharp(values, {raw: {width, height, channels: 1}})
    .toColourspace('b-w')
    .png({compressionLevel: 6, adaptiveFiltering: true})
    .toBuffer()
}
