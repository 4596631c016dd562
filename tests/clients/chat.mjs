// Two people in the example app's chat, each in a browser of their own:
//
//     node chat.mjs URL STAFF_CODE [websocket|refused|mute]
//
// The last word tells how they are connected. Where WebSockets are refused, by the server, or mute, which is done here,
// they fall back to polling. It asks the test to "stop" and to "start" the server. One line of JSON tells the result.

import assert from "node:assert/strict"
import { launch } from "./chromium.mjs"
import { ask, tell } from "./lines.mjs"
import { heard, say } from "./chatting.mjs"

const PATIENCE = 30_000

const [url, code, road = "websocket"] = process.argv.slice(2)

/** One person: a page in a context of its own, in the chat's lobby. */
async function enter(browser, nickname) {
  const context = await browser.newContext()
  if (road === "mute") await context.routeWebSocket("**/socket/websocket*", () => {}) // it opens, and that is all
  await context.clock.install()
  const page = await context.newPage()
  page.sockets = []
  if (road === "websocket") {
    await page.routeWebSocket("**/socket/websocket*", (socket) => {
      if (page.offline) return socket.close({ code: 1001 })
      socket.connectToServer()
      page.sockets.push(socket)
    })
  }
  page.setDefaultTimeout(PATIENCE)
  page.errors = []
  page.on("pageerror", (error) => page.errors.push(String(error)))
  page.polls = 0
  page.on("request", (request) => { if (request.url().includes("/socket/longpoll")) page.polls += 1 })
  await page.goto(`${url}/chat`)
  await page.fill("#nickname", nickname)
  await page.click("#enter")
  await page.waitForSelector("#chat:not([hidden])")
  await page.waitForSelector("#composer:not([hidden])")
  return page
}

async function talking(ada, grace) {
  await say(ada, "good morning <b>all</b>")
  await heard(grace, "Ada", "good morning <b>all</b>")
  await say(grace, "morning, Ada 🎉")
  await heard(ada, "Grace", "morning, Ada 🎉")
  assert.equal(await ada.locator("#messages li.message.mine").count(), 1)
}

async function typing(ada, grace) {
  await ada.locator("#body").pressSequentially("I am about to")
  await grace.waitForFunction(() => document.querySelector("#typing").textContent.includes("Ada is typing"))
  await shown(grace, { Ada: ["here", "typing…"], Grace: ["here", ""] })
  await shown(ada, { Ada: ["here", ""], Grace: ["here", ""] })
  await ada.fill("#body", "")
  await grace.waitForFunction(() => document.querySelector("#typing").textContent === "")
  await ada.locator("#body").pressSequentially("Or not")
  await grace.waitForFunction(() => document.querySelector("#typing").textContent.includes("Ada is typing"))
  await ada.context().clock.fastForward(5_000)
  await grace.waitForFunction(() => document.querySelector("#typing").textContent === "")
}

/** Waits until a page shows these people in the room: nickname, state and note of each. */
function shown(page, people) {
  return page.waitForFunction((expected) => {
    const lines = [...document.querySelectorAll("#people .person")]
    const seen = lines.map(({ dataset, lastChild }) => [dataset.nickname, [dataset.state, lastChild.textContent]])
    return JSON.stringify(seen.sort()) === JSON.stringify(Object.entries(expected).sort())
  }, people)
}

function told(page, text) {
  return page.locator("#messages .system", { hasText: text }).count()
}

/** A second tab of Ada's, and her coffee break. */
async function tabs(ada, grace) {
  const tab = await ada.context().newPage()
  await tab.goto(`${url}/chat`)
  await shown(grace, { Ada: ["here", "2 tabs"], Grace: ["here", ""] })
  await ada.click("#away")
  await shown(grace, { Ada: ["away", "away"], Grace: ["here", ""] })
  await tab.click('#away[aria-pressed="true"]')
  await shown(grace, { Ada: ["here", "2 tabs"], Grace: ["here", ""] })
  await tab.close()
  if (road !== "websocket") return // that a client polls no more is noticed after a while
  await shown(grace, { Ada: ["here", ""], Grace: ["here", ""] })
  assert.equal(await told(grace, "Ada left"), 0)
}

function hide(page, is) {
  return page.evaluate((hidden) => {
    Object.defineProperty(document, "hidden", { value: hidden, configurable: true })
    document.dispatchEvent(new Event("visibilitychange"))
  }, is)
}

/** Somebody who looks at another page for a minute, and then closes this one. */
async function visitor(browser, ada) {
  const linus = await enter(browser, "Linus")
  const others = { Ada: ["here", ""], Grace: ["here", ""] }
  await shown(ada, { ...others, Linus: ["here", ""] })
  await hide(linus, true)
  await linus.context().clock.fastForward(61_000)
  await shown(ada, { ...others, Linus: ["away", "away"] })
  await hide(linus, false)
  await shown(ada, { ...others, Linus: ["here", ""] })
  await linus.context().close()
  await shown(ada, others)
  assert.deepEqual([await told(ada, "Linus came in"), await told(ada, "Linus left")], [1, 1])
}

async function lockedRoom(grace) {
  await grace.click('[data-room="staff"]')
  await grace.waitForSelector('#unlock[data-reason="locked"]')
  assert.equal(await grace.locator("#composer").isVisible(), false)
  await unlock(grace, "not the code")
  await grace.waitForSelector('#unlock[data-reason="wrong code"]')
  await unlock(grace, code)
  await grace.waitForSelector("#composer:not([hidden])")
  await say(grace, "nobody else is here")
  await heard(grace, "Grace", "nobody else is here")
}

async function unlock(page, attempt) {
  await page.fill("#code", attempt)
  await page.click("#unlock-enter")
}

async function unread(ada, grace) {
  await say(ada, "where is Grace?")
  await grace.waitForSelector('[data-room="lobby"] .unread:not([hidden]):has-text("1")')
  await grace.click('[data-room="lobby"]')
  await heard(grace, "Ada", "where is Grace?")
}

async function announcement(...pages) {
  const response = await fetch(`${url}/announce`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ text: "Supper is ready" }),
  })
  assert.equal(response.status, 200)
  await Promise.all(pages.map((page) => page.waitForSelector('#announcement-text:has-text("Supper is ready")')))
}

/** Whether they are connected as they should be, and the pages know it. */
async function travel(...pages) {
  for (const page of pages) {
    const remembered = await page.evaluate(() => sessionStorage.getItem("phx:fallback:LongPoll"))
    assert.deepEqual([remembered, page.polls > 0], road === "websocket" ? [null, false] : ["true", true])
  }
}

async function restart(ada, grace) {
  const pages = [ada, grace]
  const online = (state) => Promise.all(pages.map((page) => page.waitForSelector(`html[data-online="${state}"]`)))
  const banner = (state) => Promise.all(pages.map((page) => page.waitForSelector("#banner", { state })))
  await ask("stop")
  await Promise.all([online(false), banner("visible")])
  await ask("start")
  await Promise.all([online(true), banner("hidden")])
  await say(ada, "there you are")
  await heard(grace, "Ada", "there you are")
  await Promise.all(pages.map((page) => shown(page, { Ada: ["here", ""], Grace: ["here", ""] })))
}

/** Takes a page's network away, or gives it back: Chromium's own emulation leaves open WebSockets alone. */
function network(page, is) {
  page.offline = !is
  page.context().setOffline(!is)
  if (!is) page.sockets.splice(0).forEach((socket) => socket.close({ code: 1001 }))
}

/** A while without a network, in which others talk. */
async function offline(ada, grace) {
  for (const [count, line] of [[7, "Caught up, 7 messages"], [1, "Caught up, 1 message"]]) {
    network(ada, false)
    await ada.waitForSelector('html[data-online="false"]')
    for (let number = 1; number <= count; number += 1) await say(grace, `while you were away ${count}.${number}`)
    await heard(grace, "Grace", `while you were away ${count}.${count}`)
    network(ada, true)
    await ada.waitForSelector(`#messages .system:has-text("${line}")`)
    await heard(ada, "Grace", `while you were away ${count}.${count}`)
  }
}

/** A longer one, of which the room no longer remembers all: the page shows where something is missing. */
async function gap(ada, grace) {
  network(ada, false)
  await ada.waitForSelector('html[data-online="false"]')
  await grace.evaluate(() => {
    const [body, composer] = ["body", "composer"].map((id) => document.getElementById(id))
    for (let number = 1; number <= 300; number += 1) {
      body.value = `of many ${number}.`
      composer.requestSubmit()
    }
  })
  await heard(grace, "Grace", "of many 300.")
  network(ada, true)
  const line = ada.locator('#messages .system:has-text("There is a gap")')
  await line.waitFor()
  await ada.waitForSelector("#jump:not([hidden])")
  await ada.waitForFunction(() => document.querySelector("#banner").hidden)
  const [place, list] = await Promise.all([line.boundingBox(), ada.locator("#messages").boundingBox()])
  assert.ok(list.y <= place.y && place.y < list.y + list.height, "it is on the screen")
  await heard(ada, "Grace", "of many 300.")
  assert.equal(await ada.locator('#messages .bubble:has-text("of many 1.")').count(), 0)
  await ada.click("#jump")
}

async function stay(browser, ada, grace) {
  await typing(ada, grace)
  if (road === "websocket") await visitor(browser, ada)
  await tabs(ada, grace)
  await lockedRoom(grace)
  await unread(ada, grace)
  if (road === "websocket") await offline(ada, grace)
  if (road === "websocket") await gap(ada, grace)
  await restart(ada, grace)
}

async function evening(browser) {
  const [ada, grace] = await Promise.all([enter(browser, "Ada"), enter(browser, "Grace")])
  await talking(ada, grace)
  await announcement(ada, grace)
  await travel(ada, grace)
  if (road !== "mute") await stay(browser, ada, grace) // why they poll makes no difference to the rest
  assert.deepEqual([...ada.errors, ...grace.errors], [])
}

const browser = await launch()
let result = { story: "chat", ok: true }
try {
  await evening(browser)
} catch (error) {
  result = { story: "chat", ok: false, error: String(error.stack) }
}
await browser.close()
await tell(result)
process.exit(result.ok ? 0 : 1)
