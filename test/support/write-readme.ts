/** `npm run readme`: writes the tables of src/README.md anew from the import rules. */
import {writeFileSync} from 'node:fs'
import {join} from 'node:path'
import {withTables} from './import-rules.js'
import {readText, root} from './source-tree.js'

writeFileSync(join(root, 'src/README.md'), withTables(readText('src/README.md')))
