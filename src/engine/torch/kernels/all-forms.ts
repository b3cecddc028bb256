/** The table of all fused forms with their references: what a device is asked about before it is trusted. */
import {scalarType} from '../binding.js'
import {attentionForms} from './attention.js'
import type {ListedForm} from './fused-form.js'
import * as layers from './fused-forms.js'
import * as updates from './fused-updates.js'
import * as maps from './map-forms.js'

const onHeads: readonly ListedForm[] = attentionForms
const others: readonly ListedForm[] = [...Object.values(layers), ...Object.values(updates), ...Object.values(maps)]

/** Every fused form; those of attention are asked about for a width of heads. */
export const fusedForms: readonly {readonly form: ListedForm; readonly width: number}[] = [
  ...onHeads.map(form => ({form, width: 64})),
  ...others.map(form => ({form, width: 0}))
]

const typeOf: Readonly<Record<string, number>> = {fp32: scalarType.float32, bf16: scalarType.bfloat16, fp16: scalarType.float16}

/** Asks about every form in every format that it is used in; → those that are left out. */
export function checkAllForms(formats: readonly string[] = Object.keys(typeOf)): string[] {
  return fusedForms.flatMap(({form, width}) =>
    form.formats
      .filter(format => formats.includes(format) && !form.serves(typeOf[format]!, width))
      .map(format => `${form.name} (${format})`)
  )
}
