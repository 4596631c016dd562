// An operator looks on at the example's chat: opens a topic, reads along, and closes a client's connection.
//
//     node dashboard.mjs URL
//
// It asks the test to "go on" after each step. One line of JSON tells the result.

import assert from "node:assert/strict"
import { launch } from "./chromium.mjs"
import { ask, tell } from "./lines.mjs"
import { heard, say } from "./chatting.mjs"

const PATIENCE = 30_000

const [url] = process.argv.slice(2)
const errors = []
const abroad = []

async function open(browser, path) {
  // Without motion there is less to draw.
  const page = await (await browser.newContext({ colorScheme: "dark", reducedMotion: "reduce" })).newPage()
  page.setDefaultTimeout(PATIENCE)
  page.on("pageerror", (error) => errors.push(String(error)))
  page.on("console", (message) => { if (message.type() === "error") errors.push(message.text()) })
  page.on("request", (request) => { if (!request.url().startsWith(url)) abroad.push(request.url()) })
  await page.goto(url + path)
  return page
}

async function look(browser, chat) {
  const page = await open(browser, "/dashboard/")
  await page.waitForSelector('#status[data-state="live"]')
  await page.waitForFunction(() => document.querySelector("#tiles .value").textContent === "1")
  await say(chat, "one")
  await page.waitForFunction(() => /[1-9]/.test(document.querySelectorAll("#tiles .value")[3].textContent))
  await page.waitForFunction(() => document.querySelector("#charts path.stroke").getAttribute("d"))
  await page.setViewportSize({ width: 390, height: 844 })
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth)
  assert.equal(wide, 0, `the page is ${wide} px too wide`)
  return page
}

async function colours(page) {
  const are = (scheme) =>
    page.waitForFunction((scheme) => getComputedStyle(document.documentElement).colorScheme === scheme, scheme)
  await are("dark") // as the system's
  await page.emulateMedia({ colorScheme: "light" })
  await are("light")
  await page.click("#theme")
  await page.click("#theme") // from the system's to light to dark
  await are("dark")
  await page.reload()
  await page.waitForSelector('#status[data-state="live"]')
  await are("dark")
}

async function reads(page, chat) {
  await page.fill("#topic-name", "room:lobby")
  await page.press("#topic-name", "Enter")
  await page.waitForSelector('#sheet li .name:text-is("Ada"), #sheet li .name:has-text("client")')
  await say(chat, "is anybody there?")
  await page.waitForSelector('#sheet .traffic .payload:has-text("is anybody there?")')
}

async function closes(page, chat) {
  const socket = chat.waitForEvent("websocket") // the chat comes back by itself
  await page.click("#sheet section:last-child button.line")
  await page.click("#sheet .danger")
  await page.click("#ask .plain")
  await page.click("#sheet .danger")
  await page.click("#ask .danger")
  await page.waitForSelector('#sheet .foot:has-text("has ended")')
  await socket
  await say(chat, "back again")
  await heard(chat, "Ada", "back again")
}

const browser = await launch()
let result = { story: "dashboard", ok: true }
try {
  const chat = await open(browser, "/chat")
  await chat.fill("#nickname", "Ada")
  await chat.click("#enter")
  await chat.waitForSelector("#composer:not([hidden])")
  await ask("go on")
  const page = await look(browser, chat)
  await ask("go on")
  await colours(page)
  await reads(page, chat)
  await ask("go on")
  await closes(page, chat)
  assert.deepEqual([errors, abroad], [[], []])
} catch (error) {
  result = { story: "dashboard", ok: false, error: `${error.stack}\n${errors.join("\n")}` }
}
await browser.close()
await tell(result)
process.exit(result.ok ? 0 : 1)
