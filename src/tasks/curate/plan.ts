/** A plan of curation: which stages run, with which options, and on which features. */
import {UserError} from '../../config/errors.js'
import {carriedHierarchy, clusterStage, sampleStage, type ClusterOptions, type SampleStageOptions} from './cluster.js'
import {decontaminateStage, type DecontaminateOptions} from './decontaminate.js'
import {dedupStage, type DedupOptions} from './dedup.js'
import type {FeatureKind, FeatureMakerOptions} from './features.js'
import {filterStage, type FilterOptions} from './filter.js'
import {mislabelledStage, outlierStage, type OutlierOptions} from './outliers.js'
import type {Pool} from './pool.js'
import {retrieveStage, type RetrieveOptions} from './retrieve.js'
import type {Context, Stage, StageName} from './stage.js'

/**
 * Which features a stage compares; `auto`: those of the model where one is named, else perceptual ones where copies
 * are looked for.
 */
type ComparedFeatures = {readonly features: FeatureKind | 'auto'}

/** The options of each stage. */
export type StageOptions = {
  readonly filter: FilterOptions
  readonly dedup: DedupOptions
  readonly decontaminate: DecontaminateOptions
  readonly outliers: OutlierOptions
  readonly mislabelled: OutlierOptions
  readonly retrieve: RetrieveOptions
  readonly cluster: ClusterOptions
  readonly sample: SampleStageOptions
}

/** One stage of a plan. */
export type PlannedStage<Name extends StageName = StageName> = {
  [S in Name]: {readonly stage: S} & ComparedFeatures & StageOptions[S]
}[Name]

const copyStages: ReadonlySet<StageName> = new Set(['filter', 'dedup', 'decontaminate'])

type ModelChoice = Pick<FeatureMakerOptions, 'model'>

/** The features of a stage. Throws `UserError` (exit 2) where only a model could serve and none is named. */
function comparedFeatures({stage, features}: PlannedStage, {model}: ModelChoice): FeatureKind {
  if (features !== 'auto') return features
  if (model !== undefined) return 'model'
  if (copyStages.has(stage)) return 'perceptual'
  throw new UserError(`curate ${stage} compares what images show, but no model was named.`, {
    exit: 2,
    code: 'NO_MODEL',
    hint: 'Give --model (starter is always here), or embeddings instead of images; --features perceptual compares images as copies of each other only.'
  })
}

/** The features that a stage compares in this pool; undefined where it needs none, or the pool came as embeddings. */
export const stageFeatures = (planned: PlannedStage, pool: Pool, {model}: ModelChoice): FeatureKind | undefined =>
  pool.images && !(planned.stage === 'sample' && planned.features === 'auto' && model === undefined)
    ? comparedFeatures(planned, {model})
    : undefined

/** The kinds of features that the plan needs of a pool of images. */
export function neededFeatures(plan: readonly PlannedStage[], pool: Pool, choice: ModelChoice): FeatureKind[] {
  const kinds = new Set<FeatureKind>()
  const first = pool.ref(0).fields
  for (const [i, planned] of plan.entries()) {
    const {stage} = planned
    if (stage === 'sample' && (plan.slice(0, i).some(before => before.stage === 'cluster') || carriesClusters(pool, planned))) continue
    const kind = stage === 'filter' && planned.seeds.length === 0 ? 'perceptual' : comparedFeatures(planned, choice)
    if (stage === 'filter' || (stage === 'dedup' && typeof first['width'] !== 'number')) kinds.add('perceptual') // for sizes and the rest
    kinds.add(kind)
  }
  return [...kinds].sort().reverse() // perceptual first: it is quicker, and leaves unreadable images out
}

/** Whether the rows of a list carry clusters to sample from. */
const carriesClusters = (pool: Pool, {features}: PlannedStage): boolean =>
  features === 'auto' &&
  carriedHierarchy({rows: Int32Array.from({length: pool.count}, (_, i) => i), fields: row => pool.ref(row).fields}) !== undefined

/** Starts a stage. */
export function runStage(planned: PlannedStage, context: Context): Stage {
  switch (planned.stage) {
    case 'filter':
      return filterStage(context, planned)
    case 'dedup':
      return dedupStage(context, planned)
    case 'decontaminate':
      return decontaminateStage(context, planned)
    case 'outliers':
      return outlierStage(context, planned)
    case 'mislabelled':
      return mislabelledStage(context, planned)
    case 'retrieve':
      return retrieveStage(context, planned)
    case 'cluster':
      return clusterStage(context, planned)
    case 'sample':
      return sampleStage(context, planned)
  }
}
