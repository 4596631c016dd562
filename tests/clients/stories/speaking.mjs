// Messages: pushes and their replies, broadcasts, order, bytes.

import { Notes, answer, check, equal, next, ok, within } from "./stage.mjs"

const bytes = (...values) => new Uint8Array(values).buffer

export async function push_and_reply(stage) {
  const channel = await stage.joined(stage.socket(), stage.own("room"))
  const said = { text: "grüße, 世界 🎉 </script>", list: [1, 2.5, null, true], deep: { er: { still: {} } } }
  equal(await ok(channel.push("echo", said)), said, "echo")
}

export async function error_reply(stage) {
  const channel = await stage.joined(stage.socket(), stage.own("room"))
  const expected = { status: "error", response: { reason: "no", asked: { for: "the moon" } } }
  equal(await answer(channel.push("refuse", { for: "the moon" })), expected, "refusal")
  equal(await ok(channel.push("echo", { still: "here" })), { still: "here" }, "reply after the refusal")
}

export async function no_reply_times_out(stage) {
  const channel = await stage.joined(stage.socket(), stage.own("room"))
  const { status } = await answer(channel.push("silent", {}, 50))
  equal(status, "timeout", "status")
  equal(await ok(channel.push("echo", { still: "here" })), { still: "here" }, "reply after the time-out")
}

export async function late_reply(stage) {
  const channel = await stage.joined(stage.socket(), stage.own("room"))
  equal(await ok(channel.push("later", { ms: 20 })), { after: 20 }, "reply given by a later message")
}

export async function binary_push_and_reply(stage) {
  const channel = await stage.joined(stage.socket(), stage.own("room"))
  const pushed = next(channel, "blob")
  const response = await ok(channel.push("blob", bytes(0, 1, 254, 255)))
  check(response instanceof ArrayBuffer, "the reply is an ArrayBuffer")
  equal(response, bytes(255, 254, 1, 0), "reply")
  equal(await pushed, bytes(0, 1, 254, 255), "push from the server")
}

export async function binary_push(stage) {
  const channel = await stage.joined(stage.socket(), stage.own("room"))
  equal(await ok(channel.push("measure", bytes(0, 91, 10, 255))), { bytes: [0, 91, 10, 255] }, "what arrived")
}

export async function binary_broadcast(stage) {
  const topic = stage.own("room")
  const speaker = await stage.joined(stage.socket(), topic)
  const listener = await stage.joined(stage.socket(), topic)
  const heard = next(listener, "shout")
  await ok(speaker.push("shout", bytes(7, 0, 7)))
  equal(await heard, bytes(7, 0, 7), "broadcast")
}

export async function empty_binary(stage) {
  const channel = await stage.joined(stage.socket(), stage.own("room"))
  equal(await ok(channel.push("blob", bytes())), bytes(), "reply")
}

export async function broadcast(stage) {
  const topic = stage.own("room")
  const speaker = await stage.joined(stage.socket(), topic)
  const listener = await stage.joined(stage.socket(), topic)
  const heard = Promise.all([next(speaker, "shout"), next(listener, "shout")])
  await ok(speaker.push("shout", { text: "hear, hear" }))
  equal(await heard, [{ text: "hear, hear" }, { text: "hear, hear" }], "what both hear")
}

export async function broadcast_to_the_others(stage) {
  const topic = stage.own("room")
  const speaker = await stage.joined(stage.socket(), topic)
  const listener = await stage.joined(stage.socket(), topic)
  const own = new Notes("whisper")
  speaker.on("whisper", own.hear)
  const heard = next(listener, "whisper")
  await ok(speaker.push("whisper", { text: "psst" }))
  equal(await heard, { text: "psst" }, "what the other hears")
  const shout = next(speaker, "shout")
  await ok(listener.push("shout", {}))
  await shout
  equal(own.all, [], "what the speaker hears")
}

export async function broadcast_precedes_the_reply(stage) {
  const socket = stage.socket()
  const channel = await stage.joined(socket, stage.own("room"))
  const events = new Notes("frame")
  socket.onMessage(({ event }) => events.hear(event))
  await ok(channel.push("shout", {}))
  await events.until(2)
  equal(events.all, ["shout", "phx_reply"], "order of the frames")
}

export async function announcement_from_a_view(stage) {
  const topic = stage.own("room")
  const channel = await stage.joined(stage.socket(), topic)
  const heard = next(channel, "announcement")
  const address = `${stage.url}/announce?topic=${topic}&text=supper`
  const response = await within(fetch(address, { method: "POST" }), "the view")
  equal(response.status, 200, "status of the view")
  equal(await heard, { text: "supper" }, "announcement")
}

export async function many_in_order(stage) {
  const topic = stage.own("room")
  const speaker = await stage.joined(stage.socket(), topic)
  const listener = await stage.joined(stage.socket(), topic)
  const numbers = [...Array(500).keys()]
  const heard = new Notes("shout")
  listener.on("shout", ({ number }) => heard.hear(number))
  const echoes = await Promise.all(numbers.map((number) => {
    speaker.push("shout", { number })
    return ok(speaker.push("echo", { number }))
  }))
  equal(echoes.map(({ number }) => number), numbers, "replies")
  equal(await heard.until(numbers.length), numbers, "order of the broadcasts")
}

export async function large_message(stage) {
  const channel = await stage.joined(stage.socket(), stage.own("room"))
  const said = { text: "ö".repeat(200_000) }
  equal(await ok(channel.push("echo", said)), said, "echo")
}

const REPETITIVE = { text: "again and ".repeat(5_000) }

export async function packed_mount(stage) {
  const channel = await stage.joined(stage.socket({ path: "/packed" }), stage.own("room"))
  equal(await ok(channel.push("echo", REPETITIVE)), REPETITIVE, "echo")
  const heard = next(channel, "shout")
  await ok(channel.push("shout", REPETITIVE))
  equal(await heard, REPETITIVE, "broadcast")
}

export async function compression_where_asked_for(stage) {
  const [plain, packed] = [stage.socket(), stage.socket({ path: "/packed" })]
  await Promise.all([plain.opens.until(1), packed.opens.until(1)])
  equal(plain.conn.extensions, "", "extensions of the ordinary mount")
  check(packed.conn.extensions.includes("permessage-deflate"), "the other mount compresses")
}

export async function plain_websocket(stage) {
  const socket = new stage.WebSocket(`${stage.url.replace(/^http/, "ws")}/plain-ws`)
  const heard = new Notes("message")
  socket.onmessage = ({ data }) => heard.hear(data)
  await within(new Promise((resolve, reject) => {
    socket.onopen = resolve
    socket.onerror = () => reject(new Error("the plain WebSocket was refused"))
  }), "the plain WebSocket")
  socket.send("one")
  socket.send("two, grüße")
  equal(await heard.until(2), ["one", "two, grüße"], "what comes back")
  const closed = new Promise((resolve) => { socket.onclose = resolve })
  socket.close()
  await within(closed, "its close")
}
