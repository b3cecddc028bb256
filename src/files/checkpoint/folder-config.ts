/**
 * The config.json of a folder for transformers or timm, as far as it says what the model is. It must agree with the
 * weights: other programs build the model by it, and would compute something else.
 */
import {join} from 'node:path'
import {UserError} from '../../config/errors.js'
import {isObject, valueText, type JsonObject} from '../../system/json.js'
import {OTHER_WEIGHTS} from './architecture.js'

/** What config.json and the weights say of a model, together. Throws `UserError` where they contradict each other. */
export function joined(
  described: Readonly<Record<string, string>>,
  found: Readonly<Record<string, string>>,
  path: string
): Record<string, string> {
  for (const [name, value] of Object.entries(described))
    if (found[name] !== undefined && found[name] !== value)
      throw new UserError(`${join(path, 'config.json')} says ${name} ${value}, but its weights say ${found[name]}.`, {
        code: 'BAD_CHECKPOINT',
        hint: OTHER_WEIGHTS
      })
  return {...described, ...found}
}

/** The architecture by a config.json of transformers or timm: what shapes cannot tell, and what they must match. */
export function describeFolder(config: JsonObject, path: string): Record<string, string> {
  const other = (what: string): UserError =>
    new UserError(`${join(path, 'config.json')} ${what}.`, {
      code: 'OTHER_MODEL',
      hint: 'Give a folder of DINOv2, or what export wrote; where the file was changed, fetch it again.'
    })
  const out: Record<string, string> = {}
  const {model_type: type, num_attention_heads: heads, layer_norm_eps: eps, hidden_act: activation, model_args: args, architecture} = config
  if (typeof type === 'string') {
    if (!['dinov2', 'dinov2_with_registers'].includes(type))
      throw other(`has the model_type ${type}; dinov2 and dinov2_with_registers are read`)
    out['model_type'] = type
  }
  if (heads !== undefined) out['heads'] = valueText(heads)
  Object.assign(out, describedShapes(config, other))
  if (eps !== undefined && eps !== 1e-6) throw other(`has the layer_norm_eps ${valueText(eps)}; DINOv2 has 1e-6`)
  if (activation !== undefined && activation !== 'gelu') throw other(`has the hidden_act ${valueText(activation)}; DINOv2 has gelu`)
  if (typeof architecture === 'string') out['architecture'] = architecture
  if (isObject(args)) {
    if ('num_heads' in args) out['heads'] = valueText(args['num_heads'])
    const said = {width: args['embed_dim'], depth: args['depth'], patch: args['patch_size'], registers: args['reg_tokens']}
    for (const [name, value] of Object.entries(said)) if (typeof value === 'number') out[name] = String(value)
  }
  return out
}

/** What config.json of transformers says that shapes tell too, under our names. */
function describedShapes(config: JsonObject, other: (what: string) => UserError): Record<string, string> {
  const {hidden_size: width, num_hidden_layers: depth, patch_size: patch, num_register_tokens: registers} = config
  const {use_swiglu_ffn: gated, mlp_ratio: ratio, num_channels: channels, qkv_bias: biased} = config
  if (channels !== undefined && channels !== 3) throw other(`has the num_channels ${valueText(channels)}; DINOv2 has 3`)
  if (biased !== undefined && biased !== true) throw other(`has the qkv_bias ${valueText(biased)}; DINOv2 has true`)
  const full = typeof width === 'number' && typeof ratio === 'number' ? Math.trunc(width * ratio) : undefined
  const said = {
    width,
    depth,
    patch,
    registers: config['model_type'] === 'dinov2' ? undefined : registers,
    ffn: typeof gated === 'boolean' ? (gated ? 'swiglu' : 'mlp') : undefined,
    hidden: full === undefined || gated !== true ? full : Math.ceil(Math.trunc((full * 2) / 3) / 8) * 8
  }
  return Object.fromEntries(Object.entries(said).flatMap(([name, value]) => (value === undefined ? [] : [[name, valueText(value)]])))
}
