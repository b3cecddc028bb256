/**
 * Parsers of small records: what stands in caches and beside outputs, what a run records of itself, what a hub
 * answers, rows of a search, classes, recordings, and which kind of file a file is.
 */
import {mkdir, readFile, rename, writeFile} from 'node:fs/promises'
import {dirname, join} from 'node:path'
import {Readable} from 'node:stream'
import {classNames} from '../../src/cli/class-names.js'
import {readLayers} from '../../src/config/read-layers.js'
import {resolveSettings} from '../../src/config/settings.js'
import {listImages} from '../../src/data/sources/source.js'
import {classesOf} from '../../src/data/targets/class-map.js'
import {expectedShapes} from '../../src/files/checkpoint/architecture.js'
import {openBackbone} from '../../src/files/checkpoint/backbone.js'
import {hubSnapshot} from '../../src/files/checkpoint/hub-cache.js'
import {saveHuggingFace} from '../../src/files/checkpoint/hugging-face-folder.js'
import {readDescription} from '../../src/files/checkpoint/pull-hub-model.js'
import {writeSafetensors} from '../../src/files/checkpoint/safetensors.js'
import {npyMatrix} from '../../src/files/embeddings/npy.js'
import {fieldsFromText} from '../../src/files/search-index/lance-header.js'
import {isIndex} from '../../src/files/search-index/vector-index.js'
import type {VitConfig} from '../../src/model/config.js'
import {UserError} from '../../src/config/errors.js'
import {readWeights} from '../../src/page/weights.js'
import {readNote} from '../../src/system/download.js'
import {isObject, jsonObjectOr} from '../../src/system/json.js'
import {readKeptAnswers} from '../../src/system/kept-answers.js'
import {ownerOf} from '../../src/system/lock.js'
import {inspectInputs} from '../../src/tasks/curate/pool-inputs.js'
import {readClasses} from '../../src/tasks/eval/segmentation/classes.js'
import {answerRows} from '../../src/tasks/search/contact-sheet.js'
import {MetricsLog} from '../../src/tasks/train/metrics-log.js'
import {compareSetups} from '../../src/tasks/train/resume.js'
import {openGolden} from '../../src/tasks/verify/golden.js'
import {distillationKind, parseRecorded} from '../../src/tasks/verify/recorded-kinds.js'
import {verifySchedules} from '../../src/tasks/verify/schedules.js'
import {golden} from '../support/scratch.js'
import {tiny} from '../support/tiny-backbone.js'
import type {Parser} from './parsers.js'
import {json, lines, safetensorsHeader} from './structured.js'

/** A text that people may edit, and that most changes leave readable. */
const text = (name: string, seeds: readonly string[], rest: Pick<Parser, 'read'> & Partial<Parser>): Parser => ({
  name,
  inputs: 1000,
  editable: true,
  lenient: true,
  structured: [json, lines],
  seeds: async () => seeds.map(seed => Buffer.from(seed)),
  ...rest
})

const config: VitConfig = {...tiny, width: 4, depth: 1, heads: 1, hidden: 8, grid: 1, patch: 2}
const parameters = [...expectedShapes(config)].map(([name, shape]) => ({
  name,
  shape,
  data: Float32Array.from({length: shape.reduce((a, b) => a * b, 1)}, (_, i) => Math.sin(i))
}))

const COMMIT = 'c0ffee0123456789abcdef0123456789abcdef01'
const POINTER = `version https://git-lfs.github.com/spec/v1\noid sha256:${'ab'.repeat(32)}\nsize 88283115\n`

/** What a refusal says, or what is there. */
const saidOf = (read: Promise<string>): Promise<string> =>
  read.catch((error: unknown) => {
    if (error instanceof UserError) return error.message
    throw error
  })

/** A model's folder one of whose files is tried, from `seed`, else as it was written; ONNX folders lack `weights`. */
const beside = (name: string, file: string, seed: string, weights: boolean): Parser =>
  text(name, [], {
    file: `${name}/${file}`,
    seeds: async scratch => {
      const folder = join(scratch, name)
      await saveHuggingFace(folder, config, parameters, {force: true})
      if (!weights) {
        await mkdir(join(folder, 'onnx'))
        await rename(join(folder, 'model.safetensors'), join(folder, 'onnx', 'model.onnx'))
      }
      return [seed === '' ? await readFile(join(folder, file)) : Buffer.from(seed)]
    },
    read: async path => {
      const folder = path.slice(0, path.lastIndexOf(`/${name}/`) + name.length + 1)
      return saidOf(
        openBackbone(folder).then(async ({config: found, checkpoint}) => {
          await checkpoint.close()
          return JSON.stringify(found)
        })
      )
    }
  })

const settings = resolveSettings(readLayers([], [], {flags: [], settings: true}).settings).settings
const setup = {
  settings: JSON.stringify({optim: {base_lr: 0.002, epochs: 3}, train: {batch_size_per_gpu: 8}}),
  images: '3',
  images_fingerprint: 'f0',
  computing: JSON.stringify({processes: 2, precision: 'fp32', device: 'cpu'})
}

const hub: readonly Parser[] = [
  {
    name: 'hub-ref',
    inputs: 1000,
    file: 'hub/models--o--n/refs/main',
    structured: [lines],
    seeds: async scratch => {
      const snapshot = join(scratch, 'hub', 'models--o--n', 'snapshots', COMMIT)
      await mkdir(snapshot, {recursive: true})
      await mkdir(join(scratch, 'hub', 'models--o--n', 'refs'), {recursive: true})
      await writeFile(join(snapshot, 'config.json'), '{}')
      return [Buffer.from(COMMIT), Buffer.from(`${COMMIT}\n`)]
    },
    read: async path => (await hubSnapshot('o/n', {HF_HUB_CACHE: dirname(dirname(dirname(path)))})).slice(-COMMIT.length)
  },
  text(
    'hub-answer',
    [
      JSON.stringify({
        sha: COMMIT,
        cardData: {license: 'apache-2.0'},
        siblings: [
          {rfilename: 'config.json', size: 500, blobId: 'a'.repeat(40)},
          {rfilename: 'model.safetensors', size: 9000, blobId: 'b'.repeat(40), lfs: {sha256: 'c'.repeat(64), size: 9000}},
          {rfilename: 'README.md', size: 3, blobId: 'd'.repeat(40)}
        ]
      })
    ],
    {
      read: async path => {
        const {files, ...rest} = await readDescription('o/n', path)
        if (files.some(({name, blob}) => /[/\\]|^\.\.?$/.test(name + blob))) throw new Error('a name that leads elsewhere')
        return JSON.stringify([rest, files])
      }
    }
  ),
  beside('lfs-pointer', 'model.safetensors', POINTER, true),
  beside('onnx-config', 'config.json', '', false),
  beside('onnx-preprocessor', 'preprocessor_config.json', '', false)
]

const caches: readonly Parser[] = [
  text('download-note', ['{"url":"https://x/y","etag":"\\"e\\"","date":"d","total":12}'], {
    file: 'part.json',
    read: async path => JSON.stringify(await readNote(path.replace(/\.json$/, ''))) ?? 'none'
  }),
  text('kept-answers', ['{"a device":[{"kernel":"k","serves":true,"error":0.1}]}'], {
    file: 'dinov2/kept.json',
    read: async path => {
      const before = process.env['XDG_CACHE_HOME']
      process.env['XDG_CACHE_HOME'] = dirname(dirname(path))
      try {
        return JSON.stringify(readKeptAnswers('kept.json'))
      } finally {
        if (before === undefined) delete process.env['XDG_CACHE_HOME']
        else process.env['XDG_CACHE_HOME'] = before
      }
    }
  }),
  text('lock', ['{"pid":12,"host":"h","began":"boot 34"}\n'], {
    read: async path => JSON.stringify(ownerOf(await readFile(path, 'utf8'))) ?? 'none'
  })
]

const runs: readonly Parser[] = [
  text('metrics-log', ['{"step":1,"loss":7.5,"lr":0.001}\n{"step":2,"loss":7.25,"knn_1":0.5}\n{"step":3,"loss":7}\n'], {
    inputs: 300,
    file: 'run/metrics.jsonl',
    seeds: async scratch => {
      await mkdir(join(scratch, 'run'), {recursive: true})
      return [Buffer.from('{"step":1,"loss":7.5,"lr":0.001}\n{"step":2,"loss":7.25,"knn_1":0.5}\n{"step":3,"loss":7}\n')]
    },
    read: async path => {
      const log = await MetricsLog.open(dirname(path), 2)
      try {
        await log.write({metrics: {step: 3, loss: 6}})
        return JSON.stringify(await log.lines())
      } finally {
        await log.close()
      }
    }
  }),
  text('run-setup', [JSON.stringify(setup)], {
    structured: [json],
    read: async path => {
      const found = jsonObjectOr(await readFile(path, 'utf8')) // as the header of a checkpoint holds it: texts by name
      if (!found || !Object.values(found).every(value => typeof value === 'string')) throw new UserError('no texts', {code: 'NONE'})
      const metadata = found as Readonly<Record<string, string>>
      const set = {images: 3, fingerprint: 'f0'}
      return JSON.stringify(compareSetups(metadata, {settings, computing: {processes: 1, precision: 'fp32'} as never, set: set as never}))
    }
  })
]

const siteWeights = (['F32', 'F16'] as const).map(dtype => ({
  name: dtype,
  dtype,
  shape: [2, 3],
  read: () => Buffer.alloc(dtype === 'F16' ? 12 : 24, 0x3c)
}))

const answers: readonly Parser[] = [
  text('search-rows', ['{"query":"a","id":"b","rank":1,"similarity":0.5,"fields":{"label":"x"}}\n{"query":"b","id":"a","distance":2}\n'], {
    read: async path => {
      const found: unknown[] = []
      for await (const answer of answerRows(path, {k: 3, limit: 10})) found.push(answer)
      return JSON.stringify(found)
    }
  }),
  text('classes', ['0 sky #0080ff\n1 road\n7 a car\n', 'sky\nroad\n'], {
    structured: [lines],
    read: async path => JSON.stringify(classesOf(await readClasses(path, 0), [255]))
  }),
  text('class-names', ['cat\ndog\r\nowl\n'], {structured: [lines], read: async path => JSON.stringify(await classNames(path))}),
  text('lance-fields', ['{"label":"x","n":[1,{"a":null}]}'], {
    read: async path => {
      const found = fieldsFromText(await readFile(path, 'utf8'))
      if (!isObject(found)) throw new Error('fields that are no object')
      return JSON.stringify(found)
    }
  }),
  text('list-unnamed', ['a.png\0b\nc.png\0/abs/d.jpg\0', 'a.png\n'], {
    structured: [lines],
    ending: '.names',
    read: async path => {
      const found: string[] = []
      for await (const {id, problem} of listImages([path])) found.push(`${id} ${problem ?? ''}`)
      return found.join('\n')
    }
  }),
  text('recording', [], {
    file: 'recording/golden.json',
    structured: [json],
    lenient: false,
    seeds: async () => [await readFile(golden('golden.json'))],
    read: async path => {
      const {index} = await openGolden(dirname(path))
      return JSON.stringify([...verifySchedules({index})])
    }
  }),
  text('recorded-step', [], {
    structured: [json],
    lenient: false,
    seeds: async () => [await readFile(golden('distill.json'))],
    read: async path => JSON.stringify(parseRecorded(await readFile(path, 'utf8'), path, distillationKind))
  }),
  text('page-weights', [], {
    structured: [safetensorsHeader],
    seeds: async scratch => {
      await writeSafetensors(join(scratch, 'seed'), siteWeights, {}, {force: true})
      return [await readFile(join(scratch, 'seed'))]
    },
    read: async path => {
      const bytes = Uint8Array.from(await readFile(path)).buffer
      const found = await readWeights(bytes).catch((error: unknown) => {
        throw (error as Error).name === 'Error' ? new UserError((error as Error).message, {code: 'NONE'}) : error
      })
      return [...found].map(([name, {shape, data}]) => `${name} ${shape.join()} ${data.join()}`).join('\n')
    }
  }),
  text('kinds', ['{"id":"a","vector":[1,2]}\n', 'id,v0,v1\na,1,2\n', '{"path":"a.png"}\n', '\x93NUMPY\x01\0v\0'], {
    ending: '.jsonl',
    read: async path => {
      const {embeddings} = await inspectInputs([path], Readable.from([]))
      return JSON.stringify([embeddings, await isIndex(path), await saidOf(npyMatrix(path).then(found => JSON.stringify(found) ?? ''))])
    }
  })
]

export const recordParsers: readonly Parser[] = [...hub, ...caches, ...runs, ...answers]
