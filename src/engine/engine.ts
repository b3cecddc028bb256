/**
 * What an engine is: one value with its name, its number formats, and how it is described, installed and started.
 *
 * Each engine has a folder that exports its value from `engine.ts`, and one line in the registry.
 */
import {UserError} from '../config/errors.js'
import type {Device} from './machine.js'
import type {Note} from '../system/compile.js'
import type {Precision} from '../tensor/ops/precision.js'

export type EngineRequestOf<Name extends string = string> = {
  readonly engine?: Name
  /** `auto`, `cpu`, `cuda`, `cuda:N` or `mps`. */
  readonly device?: string
  /** `auto`, or one of the formats that flags offer. */
  readonly precision?: string
  /** Threads of the CPU kernels; one a core by default. */
  readonly threads?: number
  /** Receives what was chosen and what is being compiled; stderr by default. */
  readonly note?: Note
}

/** A request whose open choices are filled in. */
export type StartRequest = {
  readonly device: string
  readonly precision: string
  readonly threads: number | undefined
  readonly note: Note
}

export type EngineInfoOf<Name extends string = string> = {
  readonly engine: Name
  readonly version: string
  /** The device in use, e.g. `cpu`, `cuda:0`. */
  readonly device: string
  /** The number format in which models compute. */
  readonly precision: Precision
  readonly threads: number
}

export type EngineDescription<Name extends string = string> = {
  readonly engine: Name
  readonly title: string
  /** Whether `--engine` of this name would start. */
  readonly available: boolean
  readonly version: string | null
  /** The folder or file it is taken from. */
  readonly where: string | null
  /** Devices it would run on, each with what `--precision auto` means there. */
  readonly devices: readonly (Device & {readonly auto: Precision})[]
  /** Why it is not available, as a sentence without a full stop. */
  readonly reason: string | null
  /** The command that makes it available, or better. */
  readonly command: string | null
  /** Remarks: an idle GPU, an addon still to be compiled. */
  readonly remarks: readonly string[]
}

export type InstallOptions = {
  /** The build with CUDA. */
  readonly cuda: boolean
  /** Removes the private environment first and starts afresh. */
  readonly force: boolean
  /** Receives what happens, a sentence at a time. */
  readonly note: Note
  /** Asked before a download; false stops with status 1. */
  readonly confirm: (question: string) => Promise<boolean>
}

/** The devices of a machine. */
export type Devices = {readonly cpu: Device; readonly gpus: readonly Device[]}

/** What an engine tells about itself; `describe` and `start` fill in its name. */
export type Engine<Name extends string = string> = {
  readonly name: Name
  /** What it is, in one line. */
  readonly title: string
  /** Number formats that models can compute in. */
  readonly precisions: readonly Precision[]
  /** How it gets onto a machine; absent where it comes with the package. */
  readonly installation?: {
    readonly command: string
    /** Whether it compiles an addon, so that those of the image pipeline are worth compiling along with it. */
    readonly compilesAddons: boolean
    /** Installs what is missing; → the folder or file it is taken from. */
    install(options: InstallOptions): Promise<string>
    /** What `install` would do, a sentence each; nothing is fetched or written. */
    plan(options: Pick<InstallOptions, 'cuda' | 'force'>): Promise<readonly string[]>
  }
  /** Looks for it; loads and compiles nothing. */
  describe(devices: Devices): Promise<Omit<EngineDescription, 'engine' | 'title'>>
  /** Holds all of its fused forms against their reference forms, where they run on a device that has to be asked. */
  checkForms?(): Promise<void>
  /** Makes it tfjs's current backend. Errors of status 5: it, or the device, is not to be had here. */
  start(request: StartRequest): Promise<Omit<EngineInfoOf, 'engine'>>
}

/** bf16 where the engine computes in it and the device multiplies it natively, else fp32. */
export const autoPrecision = (precisions: readonly Precision[], device: Pick<Device, 'bf16'>): Precision =>
  precisions.includes('bf16') && device.bf16 ? 'bf16' : 'fp32'

/** The devices of a description, each with what `--precision auto` means there. */
export const withAutoPrecision = (precisions: readonly Precision[], devices: readonly Device[]): EngineDescription['devices'] =>
  devices.map(device => ({...device, auto: autoPrecision(precisions, device)}))

/** The description of an engine that is not on this machine. */
export const absent = (reason: string, command: string | undefined): Omit<EngineDescription, 'engine' | 'title'> => ({
  available: false,
  version: null,
  where: null,
  devices: [],
  reason,
  command: command ?? null,
  remarks: []
})

/** Refuses a number format that the engine does not compute in. */
export function checkPrecision({name, precisions}: Pick<Engine, 'name' | 'precisions'>, precision: string): void {
  const known: readonly string[] = precisions
  if (precision === 'auto' || known.includes(precision)) return
  throw new UserError(`The ${name} engine computes in ${known.join(', ').replace(/, (\w+)$/, ' or $1')}, not in ${precision}`, {
    exit: 5,
    code: 'NO_PRECISION',
    hint: `use --precision auto${known.includes('bf16') ? '' : ', or --engine torch for bf16'}`
  })
}
