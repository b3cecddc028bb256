/** Models of the Hugging Face hub, as `dinov2 models pull` fetches them. */
export {isHubId} from '../files/checkpoint/hub-cache.js'
export {pullHubModel, type HubPullRequest} from '../files/checkpoint/pull-hub-model.js'
