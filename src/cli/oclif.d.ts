/** The bundle of oclif, which parses command lines; made by scripts/bundle.js. */
export {Args, Command, CommandHelp, Config, Errors, Flags, Help, Plugin, settings, type Interfaces} from '@oclif/core'
