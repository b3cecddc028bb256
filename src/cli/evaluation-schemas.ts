/** JSON Schemas of what evaluations report. */
import {anything, whole, either, flag, list, maybe, number, object, mapOf, text, type JsonSchema} from '../config/json-schema.js'
import {engine, plan} from './report-parts.js'

const interval = list(number, 'Low and high end of the 95 % bootstrap interval.')
export const measured = maybe(number)

/** The score of one kind of features on one set; `measures` are those of its task. */
const score = (measures: Readonly<Record<string, JsonSchema>>): JsonSchema =>
  object({features: text, set: text, images: whole, intervals: mapOf(either(interval, anything))}, measures)
const difference = object(
  {
    ...{features: text, over: text, set: text, measure: text},
    ...{better: {enum: ['higher', 'lower']}, mean: number, significant: flag}
  },
  {interval, alignment: text, k: measured, perClass: measured}
)
/** An evaluation with the measures of its scores and what else it reports. */
const evaluation = (task: string, measures: Readonly<Record<string, JsonSchema>>, more: Readonly<Record<string, JsonSchema>>): JsonSchema =>
  either(
    object(
      {task: {const: task}, fingerprint: maybe(text), scores: list(score(measures)), differences: list(difference), notes: list(text)},
      {engine, head: text, model: text, train: whole, val: whole, test: whole, ...more}
    ),
    plan
  )
const judged = list(object({path: text, label: text, predicted: text, confidence: measured}))
const examples = object({best: judged, typical: judged, worst: judged})
const evalSets = list(object({name: text, images: whole}, {kind: text, inputs: list(text)}))
export const depthErrorParts = {
  ...{a1: measured, a2: measured, a3: measured, abs_rel: measured, sq_rel: measured, rmse: measured, rmse_log: measured},
  ...{log10: measured, silog: measured}
}

/** Reports of evaluations, by the command. */
export const evaluationReports: Readonly<Record<string, JsonSchema>> = {
  'depth-eval': evaluation(
    'depth',
    {...depthErrorParts, alignment: text},
    {
      head: object(
        {kind: text, layers: list(whole), norm: flag},
        {file: text, bins: object({min: number, max: number, count: whole, spacing: text}), trained: mapOf(anything)}
      ),
      ...{range: object({min: number, max: number}), crop: text, size: maybe(whole), flip: flag, averaging: text, sets: evalSets}
    }
  ),
  'knn-eval': evaluation(
    'knn',
    {k: maybe(whole), perClass: maybe(whole), top1: measured, top5: measured, repeats: list(number)},
    {
      ...{sets: evalSets, classes: whole, leaveOneOut: flag, temperature: number, examples},
      perClass: mapOf(object({images: whole, top1: mapOf(measured)})),
      confusion: object({k: whole, classes: list(text), counts: list(list(whole))})
    }
  ),
  'linear-eval': evaluation(
    'linear',
    {top1: measured, top5: measured, chosen: text, repeats: list(number)},
    {
      ...{solver: text, cached: flag, sets: evalSets, classes: list(text), perClass: mapOf(measured), examples},
      ...{confusion: list(list(whole)), grid: list(object({features: text, rate: number, top1: measured}))}
    }
  ),
  'retrieval-eval': evaluation(
    'retrieval',
    {map: measured, recall: mapOf(measured), hits: mapOf(measured)},
    {images: whole, groups: whole, queries: whole, query: text, precision: text}
  ),
  'seg-eval': evaluation(
    'segmentation',
    {
      ...{miou: measured, meanAccuracy: measured, pixelAccuracy: measured},
      classes: list(object({name: text, id: whole, iou: measured, accuracy: measured, pixels: whole}))
    },
    {
      ...{kind: text, protocol: mapOf(anything), classes: list(object({id: whole, name: text})), classesFrom: text},
      seconds: object({train: number, predict: number})
    }
  )
}
