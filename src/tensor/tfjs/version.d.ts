/** The version of the packages that were bundled; made by scripts/bundle.js. */
export const version: string
