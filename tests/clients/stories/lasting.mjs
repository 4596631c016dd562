// What goes wrong and is got over: crashes, slow handlers, lost connections, servers that go away.

import { Notes, answer, check, equal, joins, next, ok, within } from "./stage.mjs"

const BEAT = 200
/** What a client that polls makes of the end of its session. */
const SESSION_GONE = 3410
/** What a client is closed with whose time is over. */
const EXPIRED = 3000

/** Answers to heartbeats, as they arrive on a socket. */
function heartbeats(socket) {
  const beats = new Notes("heartbeat")
  socket.onMessage(({ topic }) => { if (topic === "phoenix") beats.hear(Date.now()) })
  return beats
}

export async function crash_and_rejoin(stage) {
  const socket = stage.socket()
  const channel = socket.channel(stage.own("room"))
  const other = await stage.joined(socket, stage.own("room:other"))
  const joined = joins(channel)
  await joined.until(1)
  const errors = new Notes("error")
  channel.onError(errors.hear)
  channel.push("crash", {})
  await joined.until(2)
  equal(errors.all, [{ reason: "channel_crash" }], "errors")
  equal(await ok(channel.push("echo", { n: 1 })), { n: 1 }, "echo after the rejoin")
  equal(await ok(other.push("echo", { n: 2 })), { n: 2 }, "echo of the channel beside it")
  equal([socket.opens.all.length, socket.closes.all], [1, []], "the connection outlives the crash")
}

export async function forced_disconnect(stage) {
  const user = stage.own("user")
  let attempt = 0
  const socket = stage.socket({ params: () => ({ user, attempt: ++attempt }) })
  const channel = socket.channel(stage.own("room"), () => ({ attempt }))
  const joined = joins(channel)
  await joined.until(1)
  const admin = await stage.joined(stage.socket({ params: { user: "admin" } }), stage.own("room:admin"))
  await ok(admin.push("kick", { user }), "kick")
  await joined.until(2)
  equal(socket.closes.all, [stage.polls ? SESSION_GONE : 1001], "close codes")
  const [before, after] = joined.all.map(({ payload }) => payload.attempt)
  check(before < after, "parameters are asked for anew")
  equal(await ok(channel.push("echo", { n: 1 })), { n: 1 }, "echo after the reconnect")
}

export async function one_channel_is_ended(stage) {
  const user = stage.own("user")
  const socket = stage.socket({ params: { user } })
  const [channel, other] = [stage.own("room"), stage.own("room:other")].map((topic) => socket.channel(topic))
  const [joined, joinedOther] = [joins(channel), joins(other)]
  await joined.until(1)
  await joinedOther.until(1)
  const closes = new Notes("close")
  channel.onClose(closes.hear)
  const admin = await stage.joined(stage.socket({ params: { user: "admin" } }), stage.own("room:admin"))
  await ok(admin.push("kick", { user, topic: stage.own("room") }), "kick")
  await closes.until(1)
  equal(await ok(other.push("echo", { n: 1 })), { n: 1 }, "echo of the channel beside it")
  equal([joined.all.length, socket.opens.all.length, socket.closes.all], [1, 1, []], "it stays away, the connection stays")
}

export async function token_is_refreshed(stage) {
  const socket = stage.socket({ params: { lasts: 30 } })
  const channel = socket.channel(stage.own("room"))
  const told = next(channel, "token_expiring")
  const joined = joins(channel)
  await joined.until(1)
  const left = (await told).expires_in
  check(left > 0 && left <= 30, `${left} seconds are left`)
  equal(await answer(channel.push("phx_refresh", { token: "bad" })), { status: "error", response: { reason: "bad token" } }, "a bad token")
  await ok(channel.push("phx_refresh", { token: "good" }), "a good token")
  equal(await ok(channel.push("echo", { n: 1 })), { n: 1 }, "echo after the refresh")
  equal([socket.opens.all.length, socket.closes.all], [1, []], "the connection stays")
}

export async function token_expires(stage) {
  let attempt = 0
  const socket = stage.socket({ params: () => (++attempt === 1 ? { lasts: 0.3 } : {}) })
  const channel = socket.channel(stage.own("room"))
  const joined = joins(channel)
  await joined.until(2)
  equal(socket.closes.all, [stage.polls ? SESSION_GONE : EXPIRED], "close codes")
  equal(await ok(channel.push("echo", { n: 1 })), { n: 1 }, "echo after the reconnect")
}

export async function heartbeats_during_a_slow_handler(stage) {
  const socket = stage.socket({ heartbeatIntervalMs: BEAT })
  const channel = await stage.joined(socket, stage.own("room"))
  const bell = await stage.joined(socket, stage.own("room:bell"))
  const beats = heartbeats(socket)
  const slow = ok(channel.push("wait", { bell: stage.name }), "slow handler")
  await beats.until(2)
  await ok(bell.push("ring", { bell: stage.name }), "bell")
  equal(await slow, { rung: true }, "reply of the slow handler")
  equal([socket.opens.all.length, socket.closes.all], [1, []], "the connection stays")
}

export async function heartbeats_during_a_slow_join(stage) {
  const socket = stage.socket({ heartbeatIntervalMs: BEAT })
  const bell = await stage.joined(socket, stage.own("room:bell"))
  const beats = heartbeats(socket)
  const slow = stage.joined(socket, stage.own("room"), { bell: stage.name })
  await beats.until(2)
  await ok(bell.push("ring", { bell: stage.name }), "bell")
  equal(await ok((await slow).push("echo", { n: 1 })), { n: 1 }, "echo after the slow join")
  equal([socket.opens.all.length, socket.closes.all], [1, []], "the connection stays")
}

export async function slow_handler_keeps_order(stage) {
  const channel = await stage.joined(stage.socket(), stage.own("room"))
  const order = new Notes("reply")
  channel.push("wait", { bell: stage.name }).receive("ok", () => order.hear("wait"))
  channel.push("echo", {}).receive("ok", () => order.hear("echo"))
  const bell = await stage.joined(stage.socket(), stage.own("room:bell"))
  await ok(bell.push("ring", { bell: stage.name }), "bell")
  equal(await order.until(2), ["wait", "echo"], "order of the replies")
}

export async function client_disconnects(stage) {
  const topic = stage.own("room")
  const watcher = await stage.joined(stage.socket(), topic)
  const socket = stage.socket({ path: "/brief", params: { user: stage.own("user") } })
  await stage.joined(socket, topic, { farewell: true })
  const heard = next(watcher, "farewell")
  await within(new Promise((resolve) => socket.disconnect(resolve)), "disconnect")
  equal(await heard, { user: stage.own("user") }, "what terminate broadcasts")
}

export async function auth_token(stage) {
  const tokens = ["old-token", "new-token"]
  const user = stage.own("user")
  const socket = stage.socket({ path: "/token", params: { user }, authToken: () => tokens.shift() })
  const joined = joins(socket.channel(stage.own("room")))
  await joined.until(1)
  const admin = await stage.joined(stage.socket(), stage.own("room:admin"))
  await ok(admin.push("kick", { user }), "kick")
  await joined.until(2)
  equal(joined.all.map(({ token }) => token), ["old-token", "new-token"], "tokens that the server saw")
  if (!stage.polls) equal(socket.conn.protocol, "phoenix", "agreed subprotocol")
}

export async function no_auth_token(stage) {
  const { token } = await ok(stage.socket({ path: "/token" }).channel(stage.own("room")).join())
  equal(token, null, "token")
}

export async function server_restart(stage) {
  const socket = stage.socket()
  const topic = stage.own("room")
  const channel = socket.channel(topic)
  const joined = joins(channel)
  await joined.until(1)
  await stage.ask("restart")
  await joined.until(2)
  const [before, after] = joined.all
  check(before.boot !== after.boot, "the second join is answered by another process")
  const heard = next(channel, "shout")
  await ok(channel.push("shout", { n: 1 }), "shout after the restart")
  equal(await heard, { n: 1 }, "broadcast after the restart")
}

export async function server_stops(stage) {
  const sockets = [stage.socket(), stage.socket(), stage.socket()]
  await stage.joined(sockets[0], stage.own("room"))
  await stage.joined(sockets[1], stage.own("room"))
  await sockets[2].opens.until(1)
  await stage.ask("stop")
  const codes = await Promise.all(sockets.map(async ({ closes }) => (await closes.until(1))[0]))
  // A client between two polls is told nothing more; its next poll fails.
  const expected = stage.polls ? [SESSION_GONE, 1011] : [1012]
  check(codes.every((code) => expected.includes(code)), `close codes ${codes} are of ${expected}`)
}
