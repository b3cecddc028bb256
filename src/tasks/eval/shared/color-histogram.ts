/**
 * The baseline `histogram`: how often each colour occurs in an image, which says nothing of shape or place. Where it
 * scores as high as a model, colour alone tells the classes apart.
 *
 * Rows are square roots of shares: the inner product of two of them is the Bhattacharyya coefficient of their
 * histograms, and each has length 1.
 */

/** Bins of each channel; D = bins³. */
const BINS = 8

export const histogramDim = BINS ** 3

/** Bytes [n, 3] (sRGB) of one image → square roots of the shares of its pixels in each bin, [8³]. */
export function colorHistogram(pixels: Uint8Array): Float32Array {
  const n = pixels.length / 3
  const shares = new Float32Array(histogramDim)
  const binOf = (byte: number): number => (byte * BINS) >> 8
  for (let i = 0; i < pixels.length; i += 3)
    shares[(binOf(pixels[i]!) * BINS + binOf(pixels[i + 1]!)) * BINS + binOf(pixels[i + 2]!)]! += 1 / n
  return shares.map(Math.sqrt)
}
