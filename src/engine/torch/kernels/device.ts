/** Where new tensors of the torch engine go. */
import {torch} from '../binding.js'

/** The current device as libtorch writes it: `cpu`, `cuda:0`. */
export const deviceName = (): string => torch().describe().device
