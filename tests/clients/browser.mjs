// Plays stories in a headless Chromium, each on a fresh page:
//
//     node browser.mjs
//
// Each line that comes in is {"url", "story", "client", "vsn"}, and is answered by the story's result. The page and its
// modules come from that server, /blank and /clients. It ends when its standard input does.

import { launch } from "./chromium.mjs"
import { ask, hear, tell } from "./lines.mjs"

const CLIENTS = { newest: "phoenix", oldest: "phoenix-oldest" }

/** Runs inside the page. */
async function playInPage({ url, story, client, vsn }) {
  const { Socket } = await import(`/clients/node_modules/${client}/priv/static/phoenix.mjs`)
  const { play } = await import("/clients/stories/index.mjs")
  return play(story, { Socket, WebSocket, url, vsn, ask: window.askOutside })
}

async function perform(page, { url, story, client = "newest", vsn = "2.0.0" }) {
  try {
    await page.goto(`${url}/blank`)
    return await page.evaluate(playInPage, { url, story, client: CLIENTS[client], vsn })
  } catch (error) {
    return { story, ok: false, error: String(error.stack) }
  }
}

const browser = await launch()
const page = await browser.newPage()
await page.exposeFunction("askOutside", ask)
await tell({ ready: browser.version() })
for (;;) await tell(await perform(page, await hear()))
