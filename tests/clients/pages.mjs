// Opens pages of the documents in a headless Chromium, and tells of each what went wrong:
//
//     node pages.mjs MILLISECONDS URL...
//
// A page is fine when a join has been answered with "ok", in so many milliseconds, and no script has failed. Each line of
// the answer is {"url", "errors"}.

import { launch } from "./chromium.mjs"
import { tell } from "./lines.mjs"

const [within, ...urls] = process.argv.slice(2)

async function look(browser, url) {
  const page = await browser.newPage()
  const errors = []
  page.on("pageerror", (error) => errors.push(String(error)))
  const joined = new Promise((resolve) => page.on("websocket", (socket) => {
    const joins = new Set()
    const read = ({ payload }) => {
      try {
        return JSON.parse(payload)
      } catch {
        return []
      }
    }
    socket.on("framesent", (frame) => {
      const [, ref, , event] = read(frame)
      if (event === "phx_join") joins.add(ref)
    })
    socket.on("framereceived", (frame) => {
      const [, ref, , , payload] = read(frame)
      if (joins.has(ref) && payload?.status === "ok") resolve(true)
    })
  }))
  const late = new Promise((resolve) => setTimeout(resolve, Number(within), false).unref())
  await page.goto(url)
  if (!(await Promise.race([joined, late]))) errors.push("it has joined nothing")
  await page.close()
  return { url, errors }
}

const browser = await launch()
for (const url of urls) await tell(await look(browser, url))
await browser.close()
process.exit(0)
