/**
 * The counts that the architecture test limits, and where they come from: `npm run measure` prints them.
 *
 * Sizes are those of `src` and `commands`. A function's lines run from its first to its last, nested ones included.
 */
import {circles, exportsOf, filesUnder, functionsOf, importsOf, lineCount, readText} from './source-tree.js'

const program = [...filesUnder('src'), ...filesUnder('commands')]

/** Lines from the longest, parameters from the most. */
export const longFunctions = (): string[] =>
  program
    .flatMap(functionsOf)
    .filter(({lines}) => lines > 80)
    .sort((a, b) => b.lines - a.lines)
    .map(({file, name, lines}) => `${file} ${name}: ${lines} lines`)

export const manyParameters = (): string[] =>
  program
    .flatMap(functionsOf)
    .filter(({parameters}) => parameters > 6)
    .sort((a, b) => b.parameters - a.parameters)
    .map(({file, name, parameters}) => `${file} ${name}: ${parameters} parameters`)

export const longFiles = (): string[] =>
  filesUnder('src')
    .map(file => ({file, lines: lineCount(file)}))
    .filter(({lines}) => lines > 300)
    .sort((a, b) => b.lines - a.lines)
    .map(({file, lines}) => `${file}: ${lines} lines`)

/** Lines of a command, on average. */
export function commandLines(): number {
  const files = filesUnder('commands')
  return files.reduce((sum, file) => sum + lineCount(file), 0) / files.length
}

/** `...(x === undefined ? {} : {x})` and its kin. */
export const conditionalSpreads = (): number =>
  program.reduce((sum, file) => {
    const spreads = /\.\.\.\((?:[^()]|\((?:[^()]|\([^()]*\))*\))*\? (?:\{[^}]*\} : \{\}|\{\} : \{[^}]*\})\)/g
    return sum + (readText(file).match(spreads)?.length ?? 0)
  }, 0)

const isOurs = (path: string): boolean => path.startsWith('src/') || path.startsWith('commands/')
const folderOf = (path: string): string => path.slice(0, path.lastIndexOf('/'))

/** Files that import each other, by value or by type. */
export const fileCircles = (): string[] =>
  circles(
    program
      .flatMap(importsOf)
      .filter(({to, kind}) => kind !== 'dynamic' && isOurs(to))
      .map(({from, to}) => [from, to] as const)
  ).map(files => files.join(', '))

/** Folders whose files import each other's values. A folder and one inside it are not looked at. */
export const folderCircles = (): string[] =>
  circles(
    program
      .flatMap(importsOf)
      .filter(({to, kind}) => kind === 'value' && isOurs(to))
      .map(({from, to}) => [folderOf(from), folderOf(to)] as const)
      .filter(([from, to]) => !from.startsWith(`${to}/`) && !to.startsWith(`${from}/`))
  ).map(folders => folders.join(', '))

/** Exported names that several files of `src` declare. */
export function sharedNames(): string[] {
  const homes = new Map<string, string[]>()
  for (const {file, name} of filesUnder('src').flatMap(exportsOf)) homes.set(name, [...(homes.get(name) ?? []), file])
  return [...homes]
    .filter(([, files]) => files.length > 1)
    .map(([name, files]) => `${name}: ${files.join(', ')}`)
    .sort()
}

/** Exports of `src` that no other file takes: values, and types that their own file does not use either. */
export function deadExports(): string[] {
  const taken = new Map<string, Set<string>>()
  for (const {to, names} of [...program, ...filesUnder('test'), ...filesUnder('bench')].flatMap(importsOf))
    if (isOurs(to)) taken.set(to, new Set([...(taken.get(to) ?? []), ...names]))
  return filesUnder('src')
    .flatMap(exportsOf)
    .filter(({file, name, kind, usedInFile}) => {
      const names = taken.get(file)
      return !names?.has(name) && !names?.has('*') && !(kind === 'type' && usedInFile)
    })
    .map(({file, name}) => `${file} ${name}`)
    .filter(found => found !== 'src/cli/main.ts main') // bin/run.js calls it
}

if (process.argv[1]?.endsWith('measure.js')) {
  const print = (title: string, found: readonly string[]): void =>
    console.log([`${title}: ${found.length}`, ...found.map(line => `  ${line}`)].join('\n'))
  print('functions above 80 lines', longFunctions())
  print('functions with more than 6 parameters', manyParameters())
  print('files of src above 300 lines', longFiles())
  print('circles of files, types included', fileCircles())
  print('circles of folders', folderCircles())
  print('exported names with several homes', sharedNames())
  print('exports that nothing imports', deadExports())
  console.log(`conditional spreads: ${conditionalSpreads()}`)
  console.log(`commands: ${filesUnder('commands').length}, ${commandLines().toFixed(1)} lines on average`)
}
