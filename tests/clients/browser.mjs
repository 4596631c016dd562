// Plays stories in a headless Chromium, each on a fresh page:
//
//     node browser.mjs
//
// Each line that comes in is {"url", "story", "client", "vsn", "transport", "seed"}, and is answered by the story's
// result. The page and its modules come from that server, /blank and /clients, or from the one that "origin" names. It
// ends when its standard input does.

import { launch } from "./chromium.mjs"
import { ask, hear, tell } from "./lines.mjs"

const CLIENTS = { newest: "phoenix", oldest: "phoenix-oldest" }

/** Runs inside the page. */
async function playInPage({ story, client, ...options }) {
  const phoenix = await import(`/clients/node_modules/${client}/priv/static/phoenix.mjs`)
  const { play } = await import("/clients/stories/index.mjs")
  return play(story, { ...options, phoenix, WebSocket, ask: window.askOutside })
}

async function perform(page, { client = "newest", origin, ...options }) {
  try {
    await page.goto(`${origin ?? options.url}/blank`)
    return await page.evaluate(playInPage, { ...options, client: CLIENTS[client] })
  } catch (error) {
    return { story: options.story, ok: false, error: String(error.stack) }
  }
}

const browser = await launch()
const page = await browser.newPage()
await page.exposeFunction("askOutside", ask)
await tell({ ready: browser.version() })
for (;;) await tell(await perform(page, await hear()))
