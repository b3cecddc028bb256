/**
 * A thread that draws pictures: `draw-in-threads.ts` starts it. It posts one answer for each picture, in the order in
 * which they were asked for.
 */
import {isMainThread, workerData} from 'node:worker_threads'
import {answerRequests} from '../system/thread-answers.js'
import {drawPicture, drawWithMaps, type Picture} from './picture.js'
import type {Maps} from './render.js'

/** How the pictures of a thread are drawn. */
export type DrawSetup = {
  /** Side of a picture in pixels. */
  readonly size: number
  readonly seed: number
  /** Whether depth and regions are wanted too. */
  readonly maps: boolean
}

/** sRGB bytes [size, size, 3], with depth and regions [size, size] where they are wanted. */
export type Drawn = {readonly pixels: Uint8Array} & Partial<Maps>

/** Draws one picture. */
export const draw = (picture: Picture, {size, seed, maps}: DrawSetup): Drawn =>
  maps ? drawWithMaps(picture, size, seed) : {pixels: drawPicture(picture, size, seed)}

if (!isMainThread && (workerData as {draws?: DrawSetup} | null)?.draws)
  answerRequests((picture: Picture) => draw(picture, (workerData as {draws: DrawSetup}).draws))
