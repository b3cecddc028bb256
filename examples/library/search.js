// Embeds a folder of images, then finds for one image the most similar others.
//   node examples/library/search.js FOLDER IMAGE [INDEX]     INDEX: made by `dinov2 index`, to search that instead
import {embedImages, openIndex, openModel, searchIndex, UserError} from 'dinov2'

const [folder, image, index] = process.argv.slice(2)
try {
  const model = await openModel(process.env.MODEL ?? 'starter', {engine: process.env.ENGINE ?? 'auto', normalize: true})
  const query = (await embedImages(image, model).next()).value
  const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0)
  if (index) {
    const [found] = await searchIndex(await openIndex(index), [query], 3)
    for (const {id, similarity} of found) console.log(similarity.toFixed(3), id)
  } else {
    const rows = []
    const onRefused = ({id, reason}) => console.error(`skipped ${id}: ${reason}`)
    for await (const {id, vector} of embedImages(folder, model, {onRefused})) rows.push([dot(query.vector, vector), id])
    for (const [similarity, id] of rows.sort(([a], [b]) => b - a).slice(0, 3)) console.log(similarity.toFixed(3), id)
  }
  model.close()
} catch (error) {
  if (!(error instanceof UserError)) throw error
  console.error(`${error.message} ${error.hint ?? ''}`)
  process.exitCode = error.exit
}
