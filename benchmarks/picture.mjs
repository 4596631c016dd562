// Photographs the example's start page while it moves:
//
//     node picture.mjs URL FOLDER
//
// Frames are written to FOLDER as JPEG files, in the order of their names. They are as far apart as it takes to write
// them, PERIOD at least.

import { launch } from "../tests/clients/chromium.mjs"

const [url, folder] = process.argv.slice(2)
const FRAMES = { chat: 26, map: 14, game: 22 }
const PERIOD = 160 // milliseconds
const SAID = [["Grace", "Is the tram late again?"], ["Ada", "Look at the map: it is there."]]
const TYPED = 3 // characters between two frames

const browser = await launch()
const page = await (await browser.newContext({ viewport: { width: 1180, height: 700 }, colorScheme: "light" })).newPage()
await page.goto(url)
await page.locator('.talker[data-nickname="Ada"] .bubble').nth(3).waitFor() // the dialogue with which it begins

/** What is done in the chat before each frame: some characters are typed, or a message is sent. */
function* talking() {
  for (const [nickname, text] of SAID) {
    const talker = page.locator(`.talker[data-nickname="${nickname}"]`)
    for (let at = TYPED; at < text.length + TYPED; at += TYPED) yield () => talker.locator("[name=body]").fill(text.slice(0, at))
    yield () => talker.locator("button").click()
  }
}

let number = 0
for (const [name, frames] of Object.entries(FRAMES)) {
  const section = page.locator(`#${name}`)
  await section.evaluate((found) => found.scrollIntoView({ block: "start" }))
  if (name !== "chat") await page.waitForTimeout(4000) // it is loaded when it is seen
  const steps = name === "chat" ? talking() : [].values()
  for (let frame = 0; frame < frames; frame += 1, number += 1) {
    const soonest = page.waitForTimeout(PERIOD)
    await steps.next().value?.()
    const path = `${folder}/${String(number).padStart(3, "0")}.jpeg`
    await page.screenshot({ path, type: "jpeg", quality: 92, clip: { x: 0, y: 24, width: 1180, height: 640 } })
    await soonest
  }
}
await browser.close()
