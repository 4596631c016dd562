// The page: what comes each second, shown.

import { Socket } from "./phoenix.mjs"
import { Chart, Sparkline, setClock } from "./charts.mjs"
import { age, bytes, clock, count, keep, make, say, span } from "./parts.mjs"
import { Sheet, nodeOf, numberOf } from "./sheet.mjs"

const find = (selector) => document.querySelector(selector)
const TOPIC = "phoenix_dashboard"
/** Seconds of silence after which the page says so. */
const SILENCE = 4
const KEPT = 60
const COLOURS = 8

// The connection

const socket = new Socket(document.body.dataset.socket, {
  heartbeatIntervalMs: 15_000,
  reconnectAfterMs: (tries) => [500, 1000, 2000, 4000][tries - 1] ?? 5000,
})
const overview = socket.channel(TOPIC, {})
let failures = 0
let heard = 0

function show(state, text) {
  find("#status").dataset.state = state
  say(find("#status .text"), text)
}

socket.onOpen(() => { failures = 0; find("#banner").hidden = true })
socket.onError(() => {
  failures += 1
  show("lost", "Reconnecting")
  if (failures < 4) return
  say(find("#banner"), "This page cannot connect: the app is down, or no longer lets you see this. Reload to find out.")
  find("#banner").hidden = false
})
socket.onClose(() => show("lost", "Reconnecting"))
setInterval(() => {
  if (heard && socket.isConnected() && performance.now() - heard > SILENCE * 1000) show("lost", "No word")
}, 1000)

// The tiles

function tile(title, style, options) {
  const value = make("p", { class: "value" }, "–")
  const sub = make("p", { class: "sub" }, "\u00a0")
  const line = new Sparkline(style, options)
  const card = make("article", { class: "card tile" }, make("h2", {}, title), value, sub, line.element)
  find("#tiles").append(card)
  return { card, line, set: (figure, more) => { say(value, figure); say(sub, more) } }
}

const tiles = {
  connections: tile("Clients", "s-ink", { least: 4 }),
  topics: tile("Topics", "s-deliveries", { least: 4 }),
  joins: tile("Joins / s", "s-handlers", { least: 2 }),
  messages_in: tile("Messages in / s", "s-in", { least: 4 }),
  messages_out: tile("Messages out / s", "s-out", { least: 4 }),
  slow_now: tile("Slow clients", "s-quiet", { least: 4 }),
}

function showTiles(totals) {
  const kinds = Object.entries(totals.transports).map(([name, size]) => `${count(size)} ${name}`)
  tiles.connections.set(count(totals.connections), kinds.join(" · ") || "nobody is here")
  tiles.topics.set(count(totals.topics), `${count(totals.channels)} channels`)
  tiles.joins.set(count(totals.joins ?? 0), `${count(totals.connects ?? 0)} connects / s`)
  tiles.messages_in.set(count(totals.messages_in ?? 0), `${bytes(totals.bytes_in ?? 0)} / s`)
  tiles.messages_out.set(count(totals.messages_out ?? 0), `${bytes(totals.bytes_out ?? 0)} / s`)
  tiles.slow_now.set(count(totals.slow_now), totals.slow_count
    ? `${bytes(totals.outbox_bytes)} wait · ${count(totals.slow_count)} closed` : `${bytes(totals.outbox_bytes)} wait`)
  tiles.slow_now.card.dataset.alarm = totals.slow_now > 0
}

// The charts

const charts = {
  messages: new Chart("Messages / s", { least: 4, format: count }),
  lag: new Chart("Event loop lag, by worker", { least: 0.01, format: span }),
  handlers: new Chart("Handlers: p50 · p99", { least: 0.001, format: span }),
  deliveries: new Chart("Broadcast to sockets: p50 · p99", { least: 0.001, format: span }),
}
for (const chart of Object.values(charts)) find("#charts").append(chart.card)
charts.messages.add("in", "s-in", "area")
charts.messages.add("out", "s-out", "area")
charts.handlers.add("latency", "s-handlers", "band")
charts.deliveries.add("latency", "s-deliveries", "band")

const lines = new Map()
let painted = 0

/** The colour of a worker, as long as this page is open. */
function colour(node, pid) {
  if (!lines.has(node)) {
    const style = `c${painted++ % COLOURS}`
    lines.set(node, { style, name: String(pid ?? node.slice(0, 6)), series: null })
  }
  return lines.get(node)
}

function draw(at, totals, lags) {
  for (const [name, { line }] of Object.entries(tiles)) line.note(at, totals[name] ?? 0)
  charts.messages.take(at, { in: totals.messages_in, out: totals.messages_out })
  for (const name of ["handlers", "deliveries"]) charts[name].take(at, { latency: [totals[name].p50, totals[name].p99] })
  for (const node of Object.keys(lags)) {
    const line = colour(node)
    line.series ??= charts.lag.add(line.name, line.style)
  }
  const values = {}
  for (const [node, line] of lines) if (line.series) values[line.name] = lags[node] ?? null
  charts.lag.take(at, values)
  for (const [, line] of lines) {
    if (line.series && line.series.points.every(([, value]) => value == null)) { charts.lag.drop(line.series); line.series = null }
  }
}

function redraw() {
  for (const { line } of Object.values(tiles)) line.redraw()
  for (const chart of Object.values(charts)) { chart.redraw(); chart.describe() }
}

// The workers

const STATES = { up: "up", silent: "silent", gone: "gone" }

function showWorkers(nodes, totals) {
  const own = document.body.dataset.node
  keep(find("#workers tbody"), nodes, (node) => node.node, (node) => {
    const { style } = colour(node.node, node.pid)
    const cells = ["", "number", ...Array(6).fill("number wide"), "number"].map((style) => make("td", { class: style }))
    const row = make("tr", {}, make("th", { scope: "row" }, make("span", { class: "who" }, make("i", { class: style }),
      String(node.pid), make("small", {}, node.node.slice(0, 6)), node.node === own ? make("small", {}, "this page") : null)), ...cells)
    row.tag = make("span", { class: "tag" })
    cells[0].append(row.tag)
    row.figures = cells
    return row
  }, (row, node) => {
    const state = node.state === "up" && node.draining ? "draining" : node.state === "up" && node.lost ? "lost" : STATES[node.state]
    row.dataset.state = node.state
    row.tag.className = `tag ${state}`
    say(row.tag, state === "silent" ? `silent ${age(node.silent)}` : state === "lost" ? "alone" : state)
    const there = node.state !== "gone"
    const texts = [count(node.connections), count(node.channels), count(node.messages_in), count(node.messages_out),
      span(node.p99), bytes(node.inbox_bytes), bytes(node.outbox_bytes), span(node.lag)]
    texts.forEach((text, at) => say(row.figures[at + 1], there ? text : "–"))
  })
  const up = totals.nodes
  say(find("#summary"), `${up} ${up === 1 ? "worker" : "workers"} · ${count(totals.connections)} clients`)
  const adapter = find("#adapter")
  const unsent = totals.unpublished ? ` · ${count(totals.unpublished)} messages lost between nodes` : ""
  say(adapter, totals.adapter
    ? `${totals.adapter}: ${totals.lost ? `lost on ${totals.lost} of ${up}` : "connected"}${unsent}` : "One process, no adapter")
  adapter.classList.toggle("bad", totals.lost > 0)
}

// The lists

function line(name, more, press) {
  const parts = {
    fill: make("span", { class: "fill" }), name: make("span", { class: "name" }, name),
    more: make("span", { class: "more" }, more ?? ""), end: make("span", { class: "end" }),
  }
  const button = make(press ? "button" : "div", { class: "line", type: press ? "button" : null, onclick: press ?? (() => {}) },
    parts.fill, parts.name, parts.more, parts.end)
  return Object.assign(make("li", {}, button), { parts, button })
}

function showTopics(topics) {
  const most = topics.reduce((most, [, size]) => Math.max(most, size), 1)
  find("#no-topics").hidden = topics.length > 0
  keep(find("#topics"), topics, ([topic]) => topic, ([topic]) => {
    const row = line(topic, "", () => sheet.topic(topic))
    row.parts.fill.classList.add("s-deliveries")
    return row
  }, (row, [, size]) => {
    row.parts.end.replaceChildren(make("b", {}, count(size)))
    row.parts.fill.style.width = `calc(${size / most} * (100% - 20px))`
  })
}

function showSlow(slow) {
  find("#no-slow").hidden = slow.length > 0
  const most = slow.reduce((most, { waiting }) => Math.max(most, waiting), 1)
  keep(find("#slow"), slow, ({ connection }) => connection, (client) => {
    const row = line(client.id ?? `client ${numberOf(client.connection)}`, "", () => sheet.client(client.connection))
    row.parts.fill.classList.add("s-bad")
    return row
  }, (row, client) => {
    say(row.parts.more, `on ${colour(nodeOf(client.connection)).name} for ${age(client.seconds)}`)
    row.parts.end.replaceChildren(make("b", {}, bytes(client.waiting)), " wait")
    row.parts.fill.style.width = `calc(${client.waiting / most} * (100% - 20px))`
  })
}

function showCounts(selector, counts) {
  const entries = Object.entries(counts).sort((one, other) => other[1] - one[1])
  const text = JSON.stringify(entries)
  const list = find(selector)
  if (list.dataset.shown === text) return
  list.dataset.shown = text
  list.replaceChildren(...(entries.length ? entries.flatMap(([name, size]) => [make("dt", {}, name), make("dd", {}, count(size))])
    : [make("dd", { class: "none" }, "none")]))
}

// Crashes and events

const crashes = []
const events = []

function note(list, fresh) {
  const known = new Set(list.map(({ key }) => key))
  list.unshift(...fresh.filter(({ key }) => !known.has(key)))
  list.sort((one, other) => other.at - one.at).splice(KEPT)
}

function showCrashes(total) {
  find("#no-crashes").hidden = crashes.length > 0
  const unseen = total - crashes.length
  say(find("#crash-count"), total ? `${count(total)} since the workers began${unseen > 0 ? `, the last ${crashes.length} here` : ""}` : "")
  keep(find("#crashes"), crashes, ({ key }) => key, (crash) => {
    const row = line(crash.message, `${crash.where} · ${crash.topic}`, () => open(row, crash))
    row.className = "crash"
    row.button.setAttribute("aria-expanded", "false")
    row.parts.fill.remove()
    row.parts.end.append(make("time", {}, clock(crash.at)))
    return row
  })
}

function open(row, crash) {
  const expanded = row.button.getAttribute("aria-expanded") === "true"
  row.button.setAttribute("aria-expanded", String(!expanded))
  if (expanded) return row.detail?.remove()
  row.detail = make("div", { class: "detail" }, make("p", { class: "more" }, "Asking"))
  row.append(row.detail)
  overview.push("crash", { key: crash.key })
    .receive("ok", (found) => showCrash(row.detail, found))
    .receive("error", () => row.detail.replaceChildren(make("p", {}, "It is too long ago: nobody remembers it any more.")))
}

function showCrash(place, found) {
  const trace = traceback(found.traceback)
  place.replaceChildren(facts([
    ["When", `${clock(found.at)}, ${found.where}`], ["Topic", chip(found.topic, () => sheet.topic(found.topic))],
    ["Client", chip(`client ${numberOf(found.connection)}`, () => sheet.client(found.connection))],
    ["Worker", colour(found.node).name], ["Payload", make("code", {}, found.parameters)],
    ["Connected with", make("code", {}, found.params)],
  ]), trace)
  trace.scrollTop = trace.scrollHeight // the app's own code stands at its end
}

const chip = (text, press) => make("button", { class: "chip", type: "button", onclick: press }, text)

function facts(pairs) {
  return make("dl", { class: "facts" }, ...pairs.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]))
}

/** A traceback, in which the lines of code stand out, and the error at its end. */
function traceback(text) {
  const rows = text.trimEnd().split("\n")
  return make("pre", { tabindex: "0", "aria-label": "Traceback" }, ...rows.map((row, at) => {
    const style = at === rows.length - 1 ? "error" : /^ {4}\S/.test(row) ? "source" : null
    return make("span", { class: style }, `${row}\n`)
  }))
}

const KINDS = { joined: "joined", gone: "gone", slow: "slow", drain: "drain", adapter_lost: "lost", adapter_back: "back" }

function showEvents() {
  find("#no-events").hidden = events.length > 0
  keep(find("#events"), events, ({ key }) => key, (event) => {
    const row = line("", `worker ${colour(event.node).name} ${event.text}`)
    row.parts.name.replaceWith(make("span", { class: `tag ${event.kind}` }, KINDS[event.kind] ?? event.kind))
    row.parts.fill.remove()
    row.parts.end.append(make("time", {}, clock(event.at)))
    return row
  })
}

function announce(fresh) {
  const grave = fresh.filter(({ kind }) => kind === "gone" || kind === "adapter_lost" || kind === "slow")
  if (grave.length) say(find("#said"), `Worker ${colour(grave.at(-1).node).name} ${grave.at(-1).text}`)
}

// Each second

overview.on("second", (told) => {
  heard = performance.now()
  setClock(told.at)
  show("live", "Live")
  for (const node of told.nodes) colour(node.node, node.pid)
  draw(told.at, told.totals, Object.fromEntries(told.nodes.filter(({ state }) => state === "up").map(({ node, lag }) => [node, lag])))
  redraw()
  note(crashes, told.crashes)
  note(events, told.events)
  showTiles(told.totals)
  showWorkers(told.nodes, told.totals)
  showTopics(told.topics)
  showSlow(told.slow)
  showCounts("#presence", told.totals.presence)
  showCounts("#limits", told.totals.limits)
  showCrashes(told.totals.crash_count)
  showEvents()
  announce(told.events)
})

let drawn = 0

overview.join().receive("ok", ({ node, past, pids, ...rest }) => {
  document.body.dataset.node = node
  for (const [each, pid] of Object.entries(pids)) colour(each, pid)
  if (past.length) setClock(past.at(-1).at)
  for (const { at, totals, lags } of past) {
    if (at > drawn) draw((drawn = at), totals, lags)
  }
  if (past.length) redraw()
  note(crashes, rest.crashes)
  note(events, rest.events)
}).receive("error", () => show("lost", "Refused"))

// What is opened, and found

const sheet = new Sheet(socket, TOPIC, overview, (node) => colour(node).name)

find("#find-topic").addEventListener("submit", (event) => {
  event.preventDefault()
  const name = find("#topic-name").value.trim()
  if (name) sheet.topic(name)
})
find("#find-client").addEventListener("submit", (event) => {
  event.preventDefault()
  const text = find("#client-name").value.trim()
  if (text) sheet.search(text)
})

// Colours

const THEMES = ["system", "light", "dark"]
const DARK = matchMedia("(prefers-color-scheme: dark)")

function theme(name) {
  const { dataset } = document.documentElement
  dataset.chosen = name
  dataset.theme = name === "system" ? (DARK.matches ? "dark" : "light") : name
  try {
    localStorage.setItem("phoenix-dashboard-theme", name)
  } catch {
    // It is forgotten with this page.
  }
  const text = name === "system" ? "Colours: as the system" : `Colours: ${name}`
  say(find("#theme-name"), text)
  find("#theme").title = text
}

const chosen = () => document.documentElement.dataset.chosen

find("#theme").addEventListener("click", () => theme(THEMES[(THEMES.indexOf(chosen()) + 1) % THEMES.length]))
DARK.addEventListener("change", () => theme(chosen()))
theme(chosen())
socket.connect()
