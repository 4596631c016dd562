// Coming and going: joins, refusals, leaves, and two channels that want one topic.

import { Notes, answer, check, equal, next, ok, within } from "./stage.mjs"

export async function join(stage) {
  const socket = stage.socket({ params: { user: "ann" } })
  const response = await ok(socket.channel(stage.own("room"), { colour: "red" }).join())
  equal(response.user, "ann", "parameter of the connection")
  equal(response.payload, { colour: "red" }, "parameters of the join")
}

export async function unmatched_topic(stage) {
  const channel = stage.socket().channel("nowhere:at-all")
  equal(await answer(channel.join()), { status: "error", response: { reason: "unmatched topic" } }, "join")
  channel.leave()
}

export async function refused_join_is_tried_again(stage) {
  const channel = stage.socket().channel(stage.own("gate"), { refusals: 2 })
  const [refusals, joins] = [new Notes("refusal"), new Notes("join")]
  channel.join().receive("error", refusals.hear).receive("ok", joins.hear)
  equal(await joins.until(1), [{ tries: 3 }], "response of the join that succeeds")
  equal(refusals.all, [{ reason: "not yet", tries: 1 }, { reason: "not yet", tries: 2 }], "refusals")
}

export async function crashed_join_is_tried_again(stage) {
  const channel = stage.socket().channel(stage.own("gate"), { crashes: 1 })
  const [crashes, joins] = [new Notes("crash"), new Notes("join")]
  channel.join().receive("error", crashes.hear).receive("ok", joins.hear)
  equal(await joins.until(1), [{ tries: 2 }], "response of the join that succeeds")
  equal(crashes.all, [{ reason: "join crashed" }], "crashes")
}

export async function refused_connect(stage) {
  const socket = stage.socket({ params: { user: "banned" } })
  await socket.closes.until(2)
  equal(socket.opens.all, [], "openings")
}

export async function pushes_before_the_join(stage) {
  const channel = stage.socket().channel(stage.own("room"), { bell: stage.name })
  const joining = ok(channel.join(), "join")
  const early = channel.push("echo", { early: true })
  const bell = await stage.joined(stage.socket(), stage.own("room:bell"))
  await ok(bell.push("ring", { bell: stage.name }), "bell")
  await joining
  equal(await ok(early, "early push"), { early: true }, "reply to the early push")
}

export async function leave_and_rejoin(stage) {
  const topic = stage.own("room")
  const socket = stage.socket()
  const others = await stage.joined(stage.socket(), topic)
  const first = await stage.joined(socket, topic)
  const [closes, shouts] = [new Notes("phx_close"), new Notes("shout")]
  socket.onMessage(({ event }) => {
    if (event === "phx_close") closes.hear(event)
    if (event === "shout") shouts.hear(event)
  })
  await ok(first.leave(), "leave")
  await closes.until(1) // the client itself does not wait for the server

  await ok(others.push("shout", { while: "away" }), "shout")
  const second = await stage.joined(socket, topic)
  const heard = next(second, "shout")
  await ok(others.push("shout", { while: "back" }), "shout")
  equal(await heard, { while: "back" }, "what is heard after the rejoin")
  equal(shouts.all.length, 1, "shouts that arrived")
}

export async function closed_by_the_server(stage) {
  const socket = stage.socket()
  const channel = await stage.joined(socket, stage.own("room"))
  const closed = within(new Promise((resolve) => channel.onClose(resolve)), "close of the channel")
  channel.push("stop", {})
  await closed
  equal([channel.state, socket.channels.length], ["closed", 0], "a closed channel is forgotten")
  await stage.joined(socket, stage.own("room"))
}

export async function two_channels_on_one_topic(stage) {
  const topic = stage.own("room")
  const socket = stage.socket()
  const first = await stage.joined(socket, topic, { nth: 1 })
  const closed = within(new Promise((resolve) => first.onClose(resolve)), "close of the first")
  const second = socket.channel(topic, { nth: 2 })
  equal((await ok(second.join(), "second join")).payload, { nth: 2 }, "parameters of the second join")
  await closed
  equal(await ok(second.push("echo", { nth: 2 })), { nth: 2 }, "reply to the second")
  const heard = new Notes("shout")
  second.on("shout", heard.hear)
  await ok(second.push("shout", { once: true }))
  equal(heard.all, [{ once: true }], "shouts that the second hears")
  check(second.state === "joined", "the late close of the first leaves the second joined")
}
