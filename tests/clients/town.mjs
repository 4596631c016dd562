// People on different workers of the example app: in its chat, at its map, and in its game.
//
//     node town.mjs URL
//
// One line of JSON tells the result; it asks the test to "count" the processes while they run.

import assert from "node:assert/strict"
import { launch } from "./chromium.mjs"
import { ask, tell } from "./lines.mjs"
import { heard, say } from "./chatting.mjs"

const PATIENCE = 30_000
const MOST = 20

const [url] = process.argv.slice(2)
const errors = []
const abroad = []

/** A page in a context of its own, which tells what goes wrong in it. */
async function open(browser, path, options = {}) {
  const page = await (await browser.newContext(options)).newPage()
  page.setDefaultTimeout(PATIENCE)
  page.on("pageerror", (error) => errors.push(String(error)))
  page.on("request", (request) => { if (!request.url().startsWith(url)) abroad.push(request.url()) })
  await page.goto(url + path)
  return page
}

/** Opens pages until two are served by different workers. */
async function apart(visit, workerOf) {
  const first = await visit(0)
  const worker = await workerOf(first)
  for (let number = 1; number < MOST; number += 1) {
    const other = await visit(number)
    if ((await workerOf(other)) !== worker) return [first, other]
    await other.context().close()
  }
  throw new Error(`${MOST} pages in a row were served by worker ${worker}`)
}

// The chat

async function enter(browser, nickname) {
  const page = await open(browser, "/chat")
  await page.fill("#nickname", nickname)
  await page.click("#enter")
  await page.waitForSelector("#composer:not([hidden])")
  return page
}

const isThere = (page, nickname) => page.waitForSelector(`#people .person[data-nickname="${nickname}"]`)

async function chat(browser) {
  const [ada, grace] = await apart(
    (number) => enter(browser, number ? `Grace ${number}` : "Ada"),
    (page) => page.getAttribute("#status", "data-worker"),
  )
  const name = await grace.textContent("#me-name")
  await Promise.all([isThere(ada, name), isThere(grace, "Ada")])
  await say(ada, "good morning")
  await heard(grace, "Ada", "good morning")
  await say(grace, "good morning, Ada")
  await heard(ada, name, "good morning, Ada")
  // Whoever comes, at whichever worker, is told all of it.
  for (const page of [ada, grace]) {
    await page.reload()
    await heard(page, "Ada", "good morning")
    await heard(page, name, "good morning, Ada")
    assert.equal(await page.locator("#messages .bubble").count(), 2)
  }
}

// The start page

/** Two people talk on it, and the two other pages are live in it. */
async function start(browser) {
  const page = await open(browser, "/")
  const bubbles = (nickname) => page.locator(`.talker[data-nickname="${nickname}"] .bubble`)
  await page.fill('.talker[data-nickname="Ada"] [name=body]', "side by side")
  await page.click('.talker[data-nickname="Ada"] button')
  await bubbles("Grace").filter({ hasText: "side by side" }).waitFor()
  await page.locator("#game").scrollIntoViewIfNeeded()
  const [map, game] = await Promise.all(["map", "game"].map(async (name) => (await page.$(`#${name} iframe`)).contentFrame()))
  await map.waitForFunction(() => document.querySelector("#known").textContent === "300")
  await game.waitForFunction(() => parseInt(document.querySelector("#carries").textContent) > 0) // it plays by itself
  assert.deepEqual(await page.evaluate(() => Object.keys(localStorage)), [])
  await page.context().close()
}

// The map

const number = async (page, id) => Number(await page.textContent(id))

/** Waits until a page says that so many are there. */
function says(page, id, wanted) {
  return page.waitForFunction(([id, wanted]) => document.querySelector(id).textContent === String(wanted), [id, wanted])
}

/** How many of so many frames in a row differ from the one before, once trams have begun to move. */
function changes(page, frames) {
  return page.evaluate(async (frames) => {
    const canvas = document.querySelector("#trams")
    const next = () => new Promise((resolve) => requestAnimationFrame(() => resolve(canvas.toDataURL())))
    let last = await next()
    while (last === (await next()));
    let changed = 0
    for (let frame = 0; frame < frames; frame += 1) {
      const picture = await next()
      if (picture !== last) changed += 1
      last = picture
    }
    return changed
  }, frames)
}

async function map(browser) {
  const small = { viewport: { width: 800, height: 600 } }
  const pages = await apart(
    () => open(browser, "/map", small),
    async (page) => (await page.waitForFunction(() => Number(document.querySelector("#worker").textContent))).jsonValue(),
  )
  for (const page of pages) {
    await says(page, "#known", 300)
    await says(page, "#watchers", 2)
    await page.waitForFunction(() => Number(document.querySelector("#moving").textContent) > 100)
    // Positions come twice or three times a second, and what lies between is drawn too.
    const changed = await changes(page, 20)
    assert.ok(changed > 15, `${changed} frames of 20 show something new`)
  }
  await between(pages[0])
  await lines(pages[0])
  assert.equal(await number(pages[1], "#known"), 300)
}

/** What is drawn between what was heard; the module alone, in a page. */
async function between(page) {
  const drawn = await page.evaluate(async () => {
    const { Fleet } = await import("/static/fleet.js")
    const fleet = new Fleet()
    const [start, seen] = [5000, []]
    const hear = (at, ...trams) => fleet.hear(1, { at, trams }, start + at)
    const look = (at) => seen.push(fleet.places(start + at).map(({ x, y, heading }) => [x, y, heading % 360]))
    hear(0, [1, 0, 0, 350], [2, 0, 0, 90])
    look(0)
    hear(400, [1, 10, 20, 10], [2, 0, 8, 270])
    look(1200) // one second behind: half of the way
    look(9000)
    hear(9000, [1, 500, 500, 0], [2, 0, 8, 270])
    look(9000)
    return { seen, moving: fleet.moving() }
  })
  assert.deepEqual(drawn, {
    seen: [
      [[0, 0, 350], [0, 0, 90]],
      [[5, 10, 0], [0, 4, 90]], // the short way round; and no spin where a tram turns back
      [[10, 20, 10], [0, 8, 90]], // no further than is known
      [[500, 500, 0], [0, 8, 270]], // at once, not gliding through the town
    ],
    moving: 0,
  })
}

/** A line that is not looked at is not heard. */
async function lines(page) {
  const button = page.locator('[data-line="5"]')
  const trams = Number(await button.locator(".line-count").textContent())
  await button.click()
  await says(page, "#known", 300 - trams)
  assert.equal(await button.getAttribute("aria-pressed"), "false")
  await button.click()
  await says(page, "#known", 300)
}

// The game

async function play(browser, nickname, options) {
  const page = await open(browser, "/game", options)
  await page.fill("#nickname", nickname)
  await page.click("#enter")
  await page.waitForFunction(() => Number(document.querySelector("#worker").textContent))
  return page
}

const place = (page) => page.$eval("#field", ({ dataset }) => [dataset.x, dataset.y].map(Number))

/** Waits until a page says that we have gone as far as that to the right. */
async function goes(page, far) {
  const [start] = await place(page)
  await page.waitForFunction((x) => Number(document.querySelector("#field").dataset.x) > x, start + far)
}

/** One of the two workers runs the field, which both steer: with keys, and with a finger. */
async function game(browser) {
  const small = { viewport: { width: 390, height: 600 } }
  const [ada, grace] = await apart(
    (number) => play(browser, number ? `Grace ${number}` : "Ada", small),
    (page) => page.textContent("#worker"),
  )
  await grace.waitForSelector('#people .person[data-nickname="Ada"]', { state: "attached" })
  for (const page of [ada, grace]) await page.waitForFunction(() => document.querySelector("#field").dataset.x)
  await ada.keyboard.down("ArrowRight")
  await goes(ada, 60)
  await ada.keyboard.up("ArrowRight")
  const { x, y, width, height } = await grace.locator("#field").boundingBox()
  await grace.mouse.move(x + width - 10, y + height / 2)
  await grace.mouse.down()
  await goes(grace, 60)
  await grace.mouse.up()
  await ada.click("#menu")
  await ada.click("#leave")
  await grace.waitForSelector('#people .person[data-nickname="Ada"]', { state: "detached" })
  await grace.reload()
  await grace.waitForFunction(() => Number(document.querySelector("#field").dataset.frames) > 5)
}

const browser = await launch()
let result = { story: "town", ok: true }
try {
  await chat(browser)
  await ask("count")
  await map(browser)
  await ask("count")
  await Promise.all(browser.contexts().map((context) => context.close())) // the trams are much to draw
  await game(browser)
  await start(browser)
  assert.deepEqual([errors, abroad], [[], []])
} catch (error) {
  result = { story: "town", ok: false, error: String(error.stack) }
}
await browser.close()
await tell(result)
process.exit(result.ok ? 0 : 1)
