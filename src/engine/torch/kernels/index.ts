/** All kernels of the torch engine; importing this file registers them. */
import './elementwise.js'
import './reduce.js'
import './shape.js'
import './matrix.js'
import './image.js'
import './fused.js'
import './heads.js'
import './training.js'
