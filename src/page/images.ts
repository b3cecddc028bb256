/** Images that come into the page: dropped, pasted, chosen, photographed, or examples of the site. */
import {byId} from './dom.js'
import type {GivenImage} from './protocol.js'

/** An image that came in, with its bytes and as something that can be drawn. */
export type Loaded = {
  readonly name: string
  readonly image: GivenImage
  readonly picture: CanvasImageSource & {readonly width: number; readonly height: number}
}

/** Larger images are made smaller before anything else; the model sees far fewer pixels. */
const MOST = 4096

/** Decodes an image, upright. Throws an Error where the browser cannot. */
export async function loadImage(blob: Blob, name: string): Promise<Loaded> {
  const picture = await createImageBitmap(blob, {imageOrientation: 'from-image', premultiplyAlpha: 'none'}).catch(() => {
    throw new Error(`${name} is not an image that this browser can read.`)
  })
  const scale = Math.min(1, MOST / Math.max(picture.width, picture.height))
  const [width, height] = [Math.max(1, Math.round(picture.width * scale)), Math.max(1, Math.round(picture.height * scale))]
  const canvas = new OffscreenCanvas(width, height)
  const context = canvas.getContext('2d', {willReadFrequently: true, colorSpace: 'srgb'})!
  context.drawImage(picture, 0, 0, width, height)
  const {data} = context.getImageData(0, 0, width, height)
  const bytes = new Uint8Array(width * height * 3)
  for (let i = 0; i < width * height; i++) {
    bytes[3 * i] = data[4 * i]!
    bytes[3 * i + 1] = data[4 * i + 1]!
    bytes[3 * i + 2] = data[4 * i + 2]!
  }
  return {name, image: {width, height, data: bytes}, picture}
}

/** Calls `onImage` with the first image of what is dropped on `zone`. */
export function acceptDrops(zone: HTMLElement, onImage: (blob: Blob, name: string) => void): void {
  zone.addEventListener('dragover', event => {
    event.preventDefault()
    zone.classList.add('over')
  })
  zone.addEventListener('dragleave', () => zone.classList.remove('over'))
  zone.addEventListener('drop', event => {
    event.preventDefault()
    zone.classList.remove('over')
    const file = [...(event.dataTransfer?.files ?? [])].find(({type}) => type.startsWith('image/'))
    if (file) onImage(file, file.name)
  })
}

/** Calls `onImage` with pasted images while the section is seen. */
export function acceptPastes(section: string, onImage: (blob: Blob, name: string) => void): void {
  document.addEventListener('paste', event => {
    if (byId(section).hidden) return
    const file = [...(event.clipboardData?.files ?? [])].find(({type}) => type.startsWith('image/'))
    if (file) onImage(file, 'the pasted image')
  })
}

/** Shows the camera and takes one picture; an Error where there is none, or it is not allowed. */
export async function photograph(view: HTMLElement): Promise<Blob> {
  const video = view.querySelector('video')!
  const stream = await navigator.mediaDevices?.getUserMedia({video: {facingMode: 'environment'}}).catch(() => undefined)
  if (!stream) throw new Error('No camera is there, or this page may not use it.')
  try {
    video.srcObject = stream
    view.hidden = false
    await video.play()
    await new Promise(pressed => view.querySelector('button')!.addEventListener('click', pressed, {once: true}))
    const canvas = new OffscreenCanvas(video.videoWidth, video.videoHeight)
    canvas.getContext('2d')!.drawImage(video, 0, 0)
    return await canvas.convertToBlob({type: 'image/png'})
  } finally {
    for (const track of stream.getTracks()) track.stop()
    view.hidden = true
  }
}
