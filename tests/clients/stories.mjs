// Plays one story with the npm client on Node:
//
//     node stories.mjs URL STORY [--client newest|oldest] [--vsn 1.0.0]
//
// URL is the server's, http or https (whose certificate is not checked). One line of JSON tells the result, and so does
// the exit code. With --list in place of both it names all stories.

import { parseArgs } from "node:util"
import WebSocket from "ws"
import { ask, tell } from "./lines.mjs"
import { play, stories } from "./stories/index.mjs"

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    client: { type: "string", default: "newest" },
    vsn: { type: "string", default: "2.0.0" },
    list: { type: "boolean", default: false },
  },
})

class TrustingWebSocket extends WebSocket {
  constructor(address, protocols) {
    super(address, protocols, { rejectUnauthorized: false })
  }
}

async function main() {
  if (values.list) {
    await tell(Object.keys(stories))
    return true
  }
  const { Socket } = await import(values.client === "oldest" ? "phoenix-oldest" : "phoenix")
  const [url, story] = positionals
  const result = await play(story, { Socket, WebSocket: TrustingWebSocket, url, vsn: values.vsn, ask })
  await tell(result)
  return result.ok
}

process.exit((await main()) ? 0 : 1)
