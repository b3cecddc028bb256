/** The version of the packages that were bundled; made by scripts/bundle-tfjs.js. */
export const version: string
