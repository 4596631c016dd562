// Clients behind a relay that stalls, cuts and resets their connections:
//
//     node faulty.mjs PORT SEED PLAN
//
// PORT is the server's, PLAN the topic of each client as JSON; the first word of a client's name is its kind. Each line
// that is written is a record of one client: what it was told by a join, a message, or who is present. A line "calm" ends
// the faults, a line "cut" drops all connections and lets none through for a second, a line "count" is answered by the
// number of connections that were dropped.

import { createServer, connect } from "node:net"
import { createInterface } from "node:readline"
import { LongPoll, Presence, Socket } from "phoenix"
import WebSocket from "ws"
import { recover } from "../../flask_phoenix/static/recover.mjs"

const [port, seed] = process.argv.slice(2, 4).map(Number)
const plan = JSON.parse(process.argv[4])

let state = seed
function random(least, most) {
  state = (state * 1103515245 + 12345) % 2147483648
  return least + (state / 2147483648) * (most - least)
}

const say = (record) => process.stdout.write(`${JSON.stringify(record)}\n`)

// The relay.

let calm = false
let closed = false
let drops = 0
const open = new Set()

const relay = createServer((near) => {
  if (closed) return near.destroy()
  open.add(near)
  near.on("close", () => open.delete(near))
  let far = null
  const ends = () => [near, far].filter(Boolean)
  const drop = (how) => {
    drops += 1
    for (const end of ends()) how == "reset" ? end.resetAndDestroy() : end.destroy()
  }
  const dial = () => {
    if (near.destroyed) return
    far = connect(port, "127.0.0.1")
    near.pipe(far)
    far.pipe(near)
    for (const [end, other] of [[near, far], [far, near]]) {
      end.on("error", () => {})
      end.on("close", () => other.destroy())
    }
  }
  near.on("error", () => {})
  calm ? dial() : setTimeout(dial, random(0, 1) < 0.3 ? random(100, 1500) : 0)
  if (calm) return
  const fault = () => {
    if (near.destroyed || calm) return
    const kind = random(0, 3)
    if (kind < 1) return drop("cut")
    if (kind < 2) return drop("reset")
    if (far) far.unpipe(near)
    setTimeout(() => drop("cut"), random(100, 2000))
  }
  setTimeout(fault, random(100, 4000))
})

// The clients.

// Version 1 of the wire, which the official client has left behind.
const V1 = {
  vsn: "1.0.0",
  encode: (message, send) => send(JSON.stringify(message)),
  decode: (text, take) => take(JSON.parse(text)),
}

const numberOf = (payload) => (payload instanceof ArrayBuffer ? Number(new TextDecoder().decode(payload)) : payload.n)

function makeSocket(transport, version = {}) {
  const options = { heartbeatIntervalMs: 1000, timeout: 4000, longpollerTimeout: 4000, reconnectAfterMs: () => 50, rejoinAfterMs: () => 100 }
  const socket = new Socket(`ws://127.0.0.1:${relay.address().port}/socket`, { ...options, ...version, transport })
  socket.connect()
  return socket
}

const stock = (transport, version) => (name, topic) => {
  const channel = recover(makeSocket(transport, version), topic, { name })
  const presence = new Presence(channel)
  presence.onSync(() => say({ name, present: presence.list((key) => key).sort() }))
  let before = null
  channel.on("phx_offset", (_, ref) => { before = ref })
  channel.on("said", (payload, ref) => say({ name, ref: ref ?? before, n: numberOf(payload) }))
  channel.on("phx_reply", ({ response }) => response?.phx_history && say({ name, told: response.phx_history }))
  channel.join()
}

// Without a history: it misses what it misses.
const plain = (transport) => (name, topic) => {
  const channel = makeSocket(transport).channel(topic)
  channel.on("said", ({ n }) => say({ name, n }))
  channel.join().receive("ok", () => say({ name, joined: true }))
}

function raw(name, topic) {
  let last = null
  const begin = () => {
    const socket = new WebSocket(`ws://127.0.0.1:${relay.address().port}/socket/websocket?vsn=2.0.0`)
    const heartbeat = setInterval(() => socket.readyState == 1 && socket.send('[null,"h","phoenix","heartbeat",{}]'), 1000)
    const silent = () => socket.terminate()
    let silence = setTimeout(silent, 3000)
    socket.on("open", () => socket.send(JSON.stringify(["1", "1", topic, "phx_join", { name, since: last }])))
    socket.on("message", (text) => {
      clearTimeout(silence)
      silence = setTimeout(silent, 3000)
      const [, ref, , event, payload] = JSON.parse(text)
      if (event == "phx_reply" && ref == "1" && payload.status == "ok") {
        last = payload.response.phx_history
        say({ name, told: last })
      } else if (event == "said") {
        last = { ...last, ref }
        say({ name, ref, n: payload.n })
      } else if (event == "phx_error" || payload?.status == "error") {
        socket.terminate()
      }
    })
    socket.on("error", () => {})
    socket.on("close", () => {
      clearInterval(heartbeat)
      clearTimeout(silence)
      setTimeout(begin, 50)
    })
  }
  begin()
}

const kinds = {
  websocket: stock(WebSocket),
  longpoll: stock(LongPoll),
  old: stock(WebSocket, V1),
  raw,
  plain: plain(WebSocket),
  plainpoll: plain(LongPoll),
}

relay.listen(0, "127.0.0.1", () => {
  for (const [name, topic] of Object.entries(plan)) kinds[name.split(" ")[0]](name, topic)
})

function cut() {
  closed = true
  for (const near of open) near.destroy()
  setTimeout(() => { closed = false }, 1000)
}

createInterface({ input: process.stdin })
  .on("line", (line) => {
    if (line == "calm") calm = true
    else if (line == "cut") cut()
    else say({ drops })
  })
  .on("close", () => process.exit())
