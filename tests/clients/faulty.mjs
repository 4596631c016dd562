// Clients behind a relay that stalls, cuts and resets their connections:
//
//     node faulty.mjs PORT SEED WEBSOCKETS POLLS RAW TOPIC...
//
// PORT is the server's. Each line that is written is a record of one client: what it was told by a join, or a message.
// A line "calm" ends the faults, a line "count" is answered by the number of connections that were dropped.

import { createServer, connect } from "node:net"
import { createInterface } from "node:readline"
import { LongPoll, Socket } from "phoenix"
import WebSocket from "ws"
import { recover } from "../../flask_phoenix/static/recover.mjs"

const [port, seed, websockets, polls, raws] = process.argv.slice(2, 7).map(Number)
const topics = process.argv.slice(7)

let state = seed
function random(least, most) {
  state = (state * 1103515245 + 12345) % 2147483648
  return least + (state / 2147483648) * (most - least)
}

const say = (record) => process.stdout.write(`${JSON.stringify(record)}\n`)

// The relay.

let calm = false
let drops = 0
const faults = new Set()

const relay = createServer((near) => {
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
    faults.delete(timer)
    if (near.destroyed || calm) return
    const kind = random(0, 3)
    if (kind < 1) return drop("cut")
    if (kind < 2) return drop("reset")
    if (far) far.unpipe(near)
    setTimeout(() => drop("cut"), random(100, 2000))
  }
  const timer = setTimeout(fault, random(100, 4000))
})

// The clients.

function stock(name, topic, transport) {
  const options = { heartbeatIntervalMs: 1000, timeout: 4000, longpollerTimeout: 4000, reconnectAfterMs: () => 50, rejoinAfterMs: () => 100 }
  const socket = new Socket(`ws://127.0.0.1:${relay.address().port}/socket`, { ...options, transport })
  socket.connect()
  const channel = recover(socket, topic)
  channel.on("said", ({ n }, ref) => say({ name, ref, n }))
  channel.join().receive("ok", ({ phx_history }) => say({ name, told: phx_history }))
}

function raw(name, topic) {
  let last = null
  const begin = () => {
    const socket = new WebSocket(`ws://127.0.0.1:${relay.address().port}/socket/websocket?vsn=2.0.0`)
    const heartbeat = setInterval(() => socket.readyState == 1 && socket.send('[null,"h","phoenix","heartbeat",{}]'), 1000)
    const silent = () => socket.terminate()
    let silence = setTimeout(silent, 3000)
    socket.on("open", () => socket.send(JSON.stringify(["1", "1", topic, "phx_join", { since: last }])))
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

relay.listen(0, "127.0.0.1", () => {
  for (const [kind, count, begin] of [
    ["websocket", websockets, (name, topic) => stock(name, topic, WebSocket)],
    ["longpoll", polls, (name, topic) => stock(name, topic, LongPoll)],
    ["raw", raws, raw],
  ]) {
    for (let number = 0; number < count; number += 1) begin(`${kind} ${number}`, topics[number % topics.length])
  }
})

createInterface({ input: process.stdin })
  .on("line", (line) => {
    if (line == "calm") calm = true
    else say({ drops })
  })
  .on("close", () => process.exit())
