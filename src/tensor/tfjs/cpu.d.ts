/** The bundle of the plain JavaScript backend, which registers itself; made by scripts/bundle.js. */
export {}
