/** The flags of the stages of curation become the plan that the task runs. */
import {UserError} from '../config/errors.js'
import type {PlannedStage, StageOptions} from '../tasks/curate/plan.js'
import type {parseSeeds} from '../tasks/curate/retrieve.js'
import type {StageFlagName, StageFlagValues} from './curate-stage-flags.js'

export type StagePlanning = {
  /** How `--seeds` is read: a function of the task, which this layer does not import. */
  readonly parseSeeds: typeof parseSeeds
  /** The flags of clustering, which the sample stage takes too. */
  readonly cluster?: StageFlagValues['cluster']
}

const clusterOptions = (values: Partial<StageFlagValues['cluster']>): StageOptions['cluster'] => ({
  levels: values.levels,
  resample: values.resample,
  nearest: values.nearest,
  iterations: values.iterations,
  init: values.init ?? 'k-means++',
  miniBatch: values['mini-batch']
})

const outlierOptions = (values: StageFlagValues['outliers']): StageOptions['outliers'] => ({
  k: values.neighbours,
  maxScore: values['max-score'],
  leaveOut: values['leave-out']
})

/** The input of a seed set, without the name of the set. */
const seedInput = (text: string): string => /^[^=/\\]+=(.+)$/s.exec(text)?.[1] ?? text

/** The options of each stage, out of the values of its flags. */
const stageOptions: {readonly [Name in StageFlagName]: (values: StageFlagValues[Name], planning: StagePlanning) => StageOptions[Name]} = {
  filter: values => ({
    minSide: values['min-side'],
    maxAspect: values['max-aspect'],
    minContrast: values['min-contrast'],
    minEntropy: values['min-entropy'],
    minSharpness: values['min-sharpness'],
    minBrightness: values['min-brightness'],
    maxOverexposed: values['max-overexposed'],
    minColorfulness: values['min-colorfulness'],
    maxNoise: values['max-noise'],
    maxHashDistance: values['max-hash-distance'],
    seeds: (values.seeds ?? []).map(seedInput),
    minSimilarity: values['min-similarity']
  }),
  dedup: values => ({
    threshold: values.threshold,
    k: values.neighbours,
    method: values.method,
    probes: values.probes,
    calibrate: values.calibrate ? {precision: values['wanted-precision'], sample: values['calibration-images']} : undefined
  }),
  decontaminate: values => ({against: values.against ?? [], threshold: values.threshold}),
  outliers: outlierOptions,
  mislabelled: outlierOptions,
  retrieve: (values, planning) => ({
    sets: planning.parseSeeds(values.seeds ?? []),
    method: values.method,
    perSeed: values['per-seed'],
    minSimilarity: values['min-similarity'],
    clusters: values.clusters,
    moreThan: values['more-than'],
    perCluster: values['per-cluster'],
    cap: values.cap
  }),
  cluster: clusterOptions,
  sample: (values, {cluster = {} as StageFlagValues['cluster']}) => {
    if (values.target === undefined)
      throw new UserError('The number of images to keep is missing.', {
        exit: 2,
        code: 'USAGE',
        hint: 'Give it: --target 10000.'
      })
    return {...clusterOptions(cluster), target: values.target, select: values.select}
  }
}

/** Plans one stage. Throws `UserError` (exit 2) where a flag that it needs is missing. */
export function planStage<Name extends StageFlagName>(stage: Name, values: StageFlagValues[Name], planning: StagePlanning): PlannedStage {
  const {features = 'auto'} = (stage === 'sample' ? (planning.cluster ?? {}) : values) as Partial<Pick<PlannedStage, 'features'>>
  // The type of a planned stage follows from its name, which TypeScript does not see through a generic parameter.
  return {stage, features, ...stageOptions[stage](values, planning)} as unknown as PlannedStage
}

/** The inputs that a stage reads beside the pool. */
export function otherInputs(planned: PlannedStage): readonly string[] {
  switch (planned.stage) {
    case 'filter':
      return planned.seeds
    case 'decontaminate':
      return planned.against
    case 'retrieve':
      return planned.sets.flatMap(({inputs}) => inputs)
    default:
      return []
  }
}
