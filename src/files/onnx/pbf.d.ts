/** The bundle of pbf, which encodes protocol buffers; made by scripts/bundle.js. */
export {PbfReader, PbfWriter} from 'pbf'
