// Long polling: what it alone has to get right, and when a client that prefers a WebSocket takes to it.

import { Notes, check, equal, joins, ok } from "./stage.mjs"

/** Milliseconds in which a WebSocket has to prove itself. */
const TRIAL = 500
const BEAT = 200

const FALLBACK = "phx:fallback:LongPoll"

class Memory {
  constructor() {
    this.items = {}
  }

  getItem(name) {
    return this.items[name] ?? null
  }

  setItem(name, value) {
    this.items[name] = value
  }
}

/** A socket that prefers a WebSocket, as the page of an app would make it. */
function hopeful(stage, options) {
  return stage.socket({ transport: stage.WebSocket, longPollFallbackMs: TRIAL, sessionStorage: new Memory(), ...options })
}

function isPolling(socket) {
  return socket.transport === socket.getLongPollTransport()
}

/** How many lines each batch has that this connection sends from now on. */
function batches(connection) {
  const sizes = new Notes("batch")
  const ajax = connection.ajax
  connection.ajax = function (method, headers, body, ...rest) {
    if (method === "POST") sizes.hear(body.split("\n").length)
    return ajax.call(this, method, headers, body, ...rest)
  }
  return sizes
}

export async function batches_keep_their_order(stage) {
  const socket = stage.socket()
  const channel = await stage.joined(socket, stage.own("room"))
  const sizes = batches(socket.conn)
  const numbers = [...Array(150).keys()]
  const replies = new Notes("reply")
  for (const number of numbers) channel.push("echo", { number }).receive("ok", (said) => replies.hear(said.number))
  equal(await replies.until(numbers.length), numbers, "replies")
  equal(sizes.all, [100, 50], "lines of each batch")
}

/** A reply to the leave says nothing: the client gives it itself. The one to a ping comes after the leave was handled. */
export async function leaves_before_it_goes(stage) {
  const topic = stage.own("room")
  const watcher = await stage.joined(stage.socket(), topic)
  const socket = stage.socket({ params: { user: stage.own("user") } })
  const channel = await stage.joined(socket, topic, { farewell: true })
  const farewells = new Notes("farewell")
  watcher.on("farewell", (payload) => farewells.hear(payload))
  channel.leave()
  socket.ping(() => socket.disconnect())
  equal(await farewells.until(1), [{ user: stage.own("user") }], "what terminate broadcasts")
}

export async function session_token_expires(stage) {
  const socket = stage.socket({ path: "/brief" })
  const channel = socket.channel(stage.own("room"))
  const joined = joins(channel)
  await joined.until(2)
  equal(socket.closes.all, [3410], "close codes")
  equal(await ok(channel.push("echo", { n: 1 })), { n: 1 }, "echo over the new session")
}

/** Of a page at localhost; the server is at 127.0.0.1. */
export async function another_origin(stage) {
  const socket = stage.socket({ path: "/abroad", authToken: "from-abroad" })
  const channel = socket.channel(stage.own("room"))
  equal((await ok(channel.join(), "join")).token, "from-abroad", "token that the server saw")
  equal(await ok(channel.push("echo", { n: 1 })), { n: 1 }, "echo")
}

/** Of a page at localhost, too. */
export async function another_origin_is_refused(stage) {
  const socket = stage.socket()
  const codes = await socket.closes.until(2)
  equal(codes.slice(0, 2), stage.polls ? [1008, 1008] : [1006, 1006], "close codes")
  equal(socket.opens.all, [], "openings")
}

export async function falls_back_where_websockets_are_refused(stage) {
  await chatsOverPolls(stage, "/polled")
}

export async function falls_back_where_websockets_are_mute(stage) {
  await chatsOverPolls(stage, "/mute")
}

async function chatsOverPolls(stage, path) {
  const sessionStorage = new Memory()
  const socket = hopeful(stage, { path, sessionStorage })
  const channel = socket.channel(stage.own("room"))
  const joined = joins(channel)
  await joined.until(1)
  // A mute WebSocket opens first.
  check(isPolling(socket), "the socket polls")
  equal(sessionStorage.getItem(FALLBACK), "true", "what the page remembers")
  equal(await ok(channel.push("echo", { n: 1 })), { n: 1 }, "echo over polls")

  const next = hopeful(stage, { path: "/socket", sessionStorage })
  await stage.joined(next, stage.own("room"))
  check(isPolling(next), "the page's next socket polls at once")
}

export async function stays_with_a_healthy_websocket(stage) {
  const sessionStorage = new Memory()
  const socket = hopeful(stage, { sessionStorage, heartbeatIntervalMs: BEAT })
  const beats = new Notes("heartbeat")
  socket.onMessage(({ topic }) => { if (topic === "phoenix") beats.hear(topic) })
  const slow = stage.joined(socket, stage.own("room"), { bell: stage.name })
  await beats.until(2 + Math.ceil(TRIAL / BEAT)) // the trial's own, and as many more as outlast the trial
  const bell = await stage.joined(stage.socket({ transport: stage.WebSocket }), stage.own("room:bell"))
  await ok(bell.push("ring", { bell: stage.name }), "bell")
  equal(await ok((await slow).push("echo", { n: 1 })), { n: 1 }, "echo after the slow join")
  check(!isPolling(socket), "the socket has not fallen back")
  equal([sessionStorage.getItem(FALLBACK), socket.opens.all.length, socket.closes.all], [null, 1, []], "one connection")
}
