/**
 * Places that parse bytes and that no parser of the fuzzer reaches: module and function, and why that is right. The
 * test in `readers.test.ts` refuses an entry whose place is reached, or is gone.
 */
const OWN_THREAD = 'runs in a thread, where it is not counted: parsers parquet and parquet-images'
const OWN_PROCESS = 'reads what this process wrote itself, or holds in memory'
const SYSTEM = 'reads what the kernel says of this machine'
const INSTALLED = 'reads files of this program, or of a library that it loads as code'
const COPIED = 'passes bytes on without looking into them'
const COMPANIONS = 'reads messages of the other processes of one training, which compute with the same weights'

export const unfuzzed: Readonly<Record<string, string>> = {
  'src/cli/surroundings.ts isStdoutClosed': SYSTEM,
  'src/cli/surroundings.ts pieces': SYSTEM,
  'src/data/image/encode.ts encodeImage': OWN_PROCESS,
  'src/data/sources/image-table.ts at': OWN_PROCESS,
  'src/data/sources/parquet-columns.ts featuresOf': OWN_THREAD,
  'src/data/sources/parquet-worker.ts #next': OWN_THREAD,
  'src/data/sources/parquet-worker.ts #open': OWN_THREAD,
  'src/data/sources/parquet-worker.ts #stretch':
    'runs in that thread; its rows are read again only for training: test/data/sources/parquet.test.ts',
  'src/data/sources/shard-rows.ts resolve': 'gives back images that it laid into its own temporary file',
  'src/engine/machine.ts cpuFlags': SYSTEM,
  'src/engine/machine.ts fileCacheOfGroup': SYSTEM,
  'src/engine/tensorflow/find.ts tensorflowPackage': INSTALLED,
  'src/engine/torch/find.ts text': INSTALLED,
  'src/engine/torch/python-torch.ts ask': INSTALLED,
  'src/engine/torch/python-torch.ts scriptHead': INSTALLED,
  'src/files/checkpoint/pull-hub-model.ts assertGitBlob': COPIED,
  'src/files/checkpoint/pull-model.ts checkKind': 'compares four bytes; what is kept is read later, by parsers pth and pickle',
  'src/files/photo-sets.ts names': 'its archive has been compared with a known SHA-256',
  'src/files/photo-sets.ts untar': 'its archive has been compared with a known SHA-256',
  'src/files/search-index/matrix-file.ts fileRows': 'takes numbers as they are, at places that parsers kinds and npy have checked',
  'src/system/compile.ts leftBehind': INSTALLED,
  'src/system/compile.ts plan': INSTALLED,
  'src/system/compile.ts prebuiltAddon': INSTALLED,
  'src/system/download.ts checksum': COPIED,
  'src/system/launch.ts portOf': 'draws a port from the checksum of a name',
  'src/system/lock.ts lockText': 'hands its text to ownerOf, which parser lock tries',
  'src/tasks/curate/materialize.ts materialize': COPIED,
  'src/tasks/curate/materialize.ts samples': COPIED,
  'src/tasks/engine/install.ts smokeTest': OWN_PROCESS,
  'src/tasks/explore/model-files.ts fitsHalf': OWN_PROCESS,
  'src/tasks/explore/serve.ts answer': COPIED,
  'src/tasks/samples.ts guard': 'asks only whether there is a note',
  'src/tasks/train/memory-usage.ts peakOfProcess': SYSTEM,
  'src/tasks/train/metrics-log.ts markOf': 'takes a checksum of lines without reading them; parser metrics reads them',
  'src/tasks/train/processes.ts #errorOf': COMPANIONS,
  'src/tasks/train/processes.ts #failure': COMPANIONS,
  'src/tasks/train/processes.ts messages': COMPANIONS,
  'src/tasks/train/processes.ts valuesOf': COMPANIONS,
  'src/tasks/verify/distillation.ts verifyDistillation': 'computes on an engine; what it reads goes through parser recorded-step'
}
