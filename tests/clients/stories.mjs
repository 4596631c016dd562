// Plays stories with the npm client on Node, one of them:
//
//     node stories.mjs URL STORY [--client newest|oldest] [--vsn 1.0.0] [--transport longpoll] [--seed 7]
//
// URL is the server's, http or https (whose certificate is not checked). One line of JSON tells the result, and so does
// the exit code. With --list it names all stories. Without a URL it plays what it is told: each line that comes in is
// {"url", "story", "client", "vsn", "transport", "seed"}, and is answered by a result.
//
// The oldest client polls with XMLHttpRequest, which Node does not have: it polls in browsers only. The client writes
// version 1 over WebSockets only.

import { parseArgs } from "node:util"
import WebSocket from "ws"
import { ask, hear, tell } from "./lines.mjs"
import { play, stories } from "./stories/index.mjs"

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    client: { type: "string" },
    vsn: { type: "string" },
    transport: { type: "string" },
    seed: { type: "string" },
    list: { type: "boolean", default: false },
  },
})

class TrustingWebSocket extends WebSocket {
  constructor(address, protocols) {
    super(address, protocols, { rejectUnauthorized: false })
  }
}

async function perform({ story, client = "newest", ...options }) {
  const phoenix = await import({ newest: "phoenix", oldest: "phoenix-oldest" }[client])
  const result = await play(story, { ...options, phoenix, WebSocket: TrustingWebSocket, ask })
  await tell(result)
  return result.ok
}

// What a story that has failed still waited for is no reason to end the others.
process.on("unhandledRejection", (error) => console.error(error))

const [url, story] = positionals
if (values.list) {
  await tell(Object.keys(stories))
} else if (url) {
  process.exitCode = (await perform({ ...values, url, story })) ? 0 : 1
} else {
  for (;;) await perform(await hear())
}
process.exit()
