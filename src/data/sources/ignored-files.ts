/**
 * Which files of a folder are taken for images by name alone.
 *
 * Content decides what a picture is, so everything is taken except: hidden files and folders (their name starts with a
 * dot), what desktops and projects leave about (`Thumbs.db`, `desktop.ini`, `README`), and files whose ending says
 * that they are something else (text, tables, archives, films, sound, documents, programs, weights). A file with no
 * ending, or with an unknown one, is opened and judged by its first bytes. What is skipped is counted and said. A file
 * that is named on the command line or in a list is never skipped: naming it is asking for it.
 */

const LITTER = new Set(['thumbs.db', 'ehthumbs.db', 'desktop.ini', 'icon\r', 'license', 'readme', 'makefile'])

const OTHER = new Set(
  `json jsonl ndjson txt text lst csv tsv xml md rst yaml yml toml ini cfg conf log db sqlite sqlite3 html htm xhtml mhtml css scss js mjs cjs ts py pyc ipynb sh bash
  bat ps1 c h cpp hpp cc java class jar rs go rb php pl r m mat tex bib srt vtt sub url lnk webloc torrent aae xmp thm pp3 dop cos lrcat lock tmp part crdownload swp bak
  zip tar gz tgz bz2 tbz xz txz zst 7z rar lz4 iso dmg deb rpm exe dll so dylib o a bin dat idx rec tfrecord
  mp4 m4v mov avi mkv webm wmv flv mpg mpeg 3gp mts m2ts ogv mp3 wav flac ogg oga m4a aac wma opus mid aif aiff
  pdf doc docx xls xlsx ppt pptx odt ods odp rtf epub ps eps ai indd ttf otf woff woff2
  npy npz pt pth ckpt safetensors onnx pb h5 hdf5 pkl pickle joblib arrow feather parquet lmdb mdb index hnsw
  gpx kml geojson shp dbf shx prj obj stl ply glb gltf fbx blend`.split(/\s+/)
)

/** Why a file found in a folder is passed over, or undefined where it is to be opened. */
export function skipReason(name: string): string | undefined {
  if (name.startsWith('.')) return 'a hidden file'
  const lower = name.toLowerCase()
  if (LITTER.has(lower)) return 'not an image by its name'
  const dot = lower.lastIndexOf('.')
  const ending = dot > 0 ? lower.slice(dot + 1) : ''
  if (ending === 'tar') return 'a tar shard, which is read only where it is named itself'
  if (ending === 'parquet' || ending === 'pq') return 'a Parquet file, which is read only where it is named itself'
  return OTHER.has(ending) ? `not an image by its ending .${ending}` : undefined
}
