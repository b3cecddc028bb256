/** The flags of `dinov2 index`. */
import {Flags} from './oclif.js'
import {configFlags, inputFlags, outputFlags, reportFlags, seedFlag} from './flags.js'

export const indexFlags = {
  output: outputFlags.output,
  force: outputFlags.force,
  add: Flags.string({
    multiple: true,
    helpGroup: 'CHANGING',
    helpValue: 'EMBEDDINGS',
    summary: 'Add these rows to the index. Repeatable; - is stdin.'
  }),
  remove: Flags.string({
    helpGroup: 'CHANGING',
    helpValue: 'LIST',
    summary: 'Take out the ids of this list (one a line, or JSON Lines with an id); - is stdin.'
  }),
  replace: Flags.boolean({
    helpGroup: 'CHANGING',
    summary: 'A row whose id is there already takes the place of the other; without it, that is an error.'
  }),
  ...inputFlags,
  backend: Flags.option({options: ['file', 'lance'] as const})({
    helpGroup: 'INDEX',
    summary:
      'One file that is loaded to be searched, or a LanceDB table that is searched where it lies. An index that is changed stays what it is, and an address is a table.'
  }),
  kind: Flags.option({options: ['auto', 'exact', 'hnsw', 'ivf-pq'] as const})({
    default: 'auto',
    helpGroup: 'INDEX',
    summary: 'auto is exact below 20,000 rows, and above a graph (file) or inverted lists (lance).'
  }),
  metric: Flags.option({options: ['cosine', 'ip', 'l2'] as const})({
    helpGroup: 'INDEX',
    summary: 'cosine (the default; vectors are normalized), inner product, or Euclidean distance.'
  }),
  m: Flags.integer({
    min: 2,
    max: 128,
    helpGroup: 'INDEX',
    helpValue: 'N',
    summary: 'Links of a node in the graph; 16 by default. More find more and need more memory.'
  }),
  'ef-construction': Flags.integer({
    min: 4,
    max: 4096,
    helpGroup: 'INDEX',
    helpValue: 'N',
    summary: 'Candidates looked at while building; 200 by default.'
  }),
  ef: Flags.integer({
    min: 1,
    max: 65_536,
    helpGroup: 'INDEX',
    helpValue: 'N',
    summary: 'Candidates looked at by a search; by default as many as give a measured recall of 0.98.'
  }),
  probes: Flags.integer({
    min: 1,
    max: 65_536,
    helpGroup: 'INDEX',
    helpValue: 'N',
    summary: 'Inverted lists that a search reads; by default as many as give a measured recall of 0.98.'
  }),
  refine: Flags.integer({
    min: 1,
    max: 1000,
    helpGroup: 'INDEX',
    helpValue: 'N',
    summary:
      'Candidates for each neighbour that are measured again with their whole vectors; by default 10, or 40 where that is needed for the recall.'
  }),
  ...seedFlag,
  ...configFlags,
  ...reportFlags
}
