/** Recipes: files of settings that come with the program, each with a name. */
import {existsSync, readdirSync} from 'node:fs'
import {fileURLToPath} from 'node:url'

/** The folder of recipes that comes with the program. */
export const recipeFolder = fileURLToPath(new URL('../../../configs/', import.meta.url))

/** The recipes that come with the program, by name. */
export const recipeNames = (): string[] =>
  existsSync(recipeFolder)
    ? readdirSync(recipeFolder)
        .flatMap(name => (name.endsWith('.yaml') ? [name.slice(0, -5)] : []))
        .sort()
    : []
