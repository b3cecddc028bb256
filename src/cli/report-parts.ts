/** Parts of reports that several commands share, as JSON Schemas. */
import {whole, flag, list, maybe, number, object, mapOf, text} from '../config/json-schema.js'

export const engine = object({engine: text, version: text, device: text, precision: text, threads: whole})

/** A device that computes, and an engine as `engine list` finds it. */
export const device = {name: text, title: text, memory: number, cores: maybe(whole), bf16: flag, driver: text, auto: text}
export const engineFound = object(
  {engine: text, available: flag},
  {
    ...{title: text, version: maybe(text), where: maybe(text), devices: list(object({}, device))},
    ...{reason: maybe(text), command: maybe(text), remarks: list(text)}
  }
)

/** A model that `--dry-run` found missing, and that would be downloaded. */
export const missing = object({model: text, url: text, folder: text}, {bytes: whole})

/** What a command that was asked for `--dry-run` would read, compute and write. */
export const plan = object({
  reads: list(object({set: text}, {images: whole, bytes: whole})),
  models: list(object({model: text, parameters: whole, memory: whole})),
  files: list(object({file: text, bytes: whole})),
  downloads: list(missing),
  computes: text,
  writes: list(text)
})

export const training = object(
  {run: text, step: whole, finished: flag},
  {
    checkpoint: text,
    model: text,
    health: object({healthy: flag, words: text}),
    worth: object({fell: flag, words: text}),
    scores: mapOf(maybe(number)),
    teacher_scores: mapOf(maybe(number))
  }
)

const processCost = object({state: number, step: number, tensors: number, sent: number})
const several = object({count: whole, ddp: processCost, fsdp: processCost})
export const cost = object(
  {machine: text, flopsPerStep: number},
  {
    ...{images: whole, steps: whole, parameters: whole, secondsPerStep: number, dataWait: number, seconds: number, estimated: text},
    ...{checkpointSeconds: number, checkpointBytes: number, peakBytes: number, processBytes: number, parts: mapOf(number)},
    several
  }
)
