/** A web server for one folder on this machine, until it is told to stop. */
import {createServer, type IncomingMessage, type ServerResponse} from 'node:http'
import {readdir} from 'node:fs/promises'
import {extname, join} from 'node:path'
import {pipeline} from 'node:stream/promises'
import {UserError} from '../../config/errors.js'
import {fileBytes} from '../../system/plain-file.js'

const types: Readonly<Record<string, string>> = {
  '.html': 'text/html; charset=utf-8',
  '.css': 'text/css; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.jpg': 'image/jpeg',
  '.wasm': 'application/wasm'
}

/** Threads of WebAssembly need a page that shares nothing with others; and nothing may be kept from an older site. */
const headers = {
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'X-Content-Type-Options': 'nosniff',
  'Cache-Control': 'no-store'
}

export type Served = {readonly url: string; readonly closed: Promise<void>}

/**
 * Serves the files that lie in `folder` (none in folders below it) on 127.0.0.1 until `signal` aborts. A name is
 * looked up in the list of its files, so that no other file can be reached; a request that names another host is
 * refused, so that no page of another site can read it through a name that points here. Throws a
 * `UserError` (exit 1) where the
 * port is taken, and (exit 3) where the folder holds no page.
 */
export async function serveFolder(folder: string, {port, signal}: {readonly port: number; readonly signal: AbortSignal}): Promise<Served> {
  const files = new Set(
    (await readdir(folder, {withFileTypes: true}).catch(() => [])).filter(entry => entry.isFile()).map(({name}) => name)
  )
  if (!files.has('index.html'))
    throw new UserError(`${folder} holds no site of dinov2 explore.`, {
      exit: 3,
      code: 'NO_INPUT',
      hint: `Write one first: dinov2 explore IMAGES --model starter -o ${folder}`
    })
  const server = createServer((request, response) => void answer(folder, files, request, response))
  await new Promise<void>((listening, failed) => {
    server.once('error', (error: NodeJS.ErrnoException) =>
      failed(
        new UserError(
          `Port ${port} of 127.0.0.1 cannot be used: ${error.code === 'EADDRINUSE' ? 'another program has it' : error.message}.`,
          {
            exit: 1,
            code: 'PORT',
            hint: 'Give another --port, or leave it out for a free one.'
          }
        )
      )
    )
    server.listen(port, '127.0.0.1', listening)
  })
  const address = server.address()
  const closed = new Promise<void>(done => {
    const close = (): void => {
      server.close(() => done())
      server.closeAllConnections()
    }
    if (signal.aborted) close()
    else signal.addEventListener('abort', close, {once: true})
  })
  return {url: `http://127.0.0.1:${typeof address === 'object' && address ? address.port : port}/`, closed}
}

async function answer(
  folder: string,
  files: ReadonlySet<string>,
  {url = '/', method, headers: sent}: IncomingMessage,
  response: ServerResponse
): Promise<void> {
  const refuse = (status: number): void => void response.writeHead(status, {...headers, 'Content-Type': 'text/plain'}).end(`${status}\n`)
  if (!/^(127\.0\.0\.1|localhost)(:\d+)?$/.test(sent.host ?? '')) return refuse(403)
  if (method !== 'GET' && method !== 'HEAD') return refuse(405)
  const name = url.split(/[?#]/)[0]!.slice(1) || 'index.html'
  if (!files.has(name)) return refuse(404)
  try {
    response.writeHead(200, {...headers, 'Content-Type': types[extname(name)] ?? 'application/octet-stream'})
    if (method === 'HEAD') response.end()
    else await pipeline(fileBytes(join(folder, name)), response)
  } catch {
    response.destroy() // the file went away, or the browser did
  }
}
