// Presence: what the client's Presence object makes of what it is told, held against the server's list.

import { Crowd, stateOf } from "./crowd.mjs"
import { Notes, check, equal, ok } from "./stage.mjs"

const metasOf = (tab, key) => stateOf(tab.presence)[key].metas

export async function presence_of_tabs(stage) {
  const crowd = new Crowd(stage)
  const phone = crowd.open("ann", { device: "phone" })
  const events = new Notes("event")
  phone.socket.onMessage(({ event }) => events.hear(event))
  await phone.join()
  await crowd.agree("a join")
  equal(events.all.slice(0, 3), ["phx_reply", "presence_state", "presence_diff"], "order of the frames")
  const laptop = await crowd.enter("ann", { device: "laptop" })
  await crowd.agree("a second tab")
  equal(metasOf(phone, "ann").map(({ device }) => device), ["phone", "laptop"], "metas of both tabs")
  const bob = await crowd.enter("bob")
  await crowd.agree("somebody else")
  await crowd.enter()
  await crowd.agree("somebody who only looks")

  const [, { phx_ref: former }] = metasOf(bob, "ann")
  await laptop.update("ann", { device: "laptop", away: true })
  await crowd.agree("an update")
  equal(metasOf(bob, "ann").map((meta) => meta.phx_ref_prev), [undefined, former], "where the meta comes from")

  await bob.track("guest of bob", { seats: 2 })
  await crowd.agree("a second key of one channel")
  await bob.untrack("bob")
  await crowd.agree("an untrack")
  await bob.track("bob", { back: true })
  await crowd.agree("a second track")
  await laptop.leave()
  await crowd.agree("a leave")
  await laptop.join()
  await crowd.agree("a join by a new channel")
  await bob.vanish()
  await crowd.agreeInTheEnd("a disconnect")
  await Promise.all([phone, laptop].map((tab) => tab.leave()))
  await crowd.agree("the last leave")
  equal(await crowd.list(), {}, "who is there")
}

export async function presence_outlives_trouble(stage) {
  const crowd = new Crowd(stage)
  const [ann, bob] = [await crowd.enter("ann", { n: 1 }), await crowd.enter("bob", { n: 2 })]
  await crowd.enter("bob", { n: 3 })
  await ann.update("ann", { n: 4 })
  await bob.track("guest of bob", { n: 5 })
  await crowd.agree("the joins")
  await ann.crash()
  await crowd.agree("a crash")
  await bob.crash()
  await crowd.agree("a crash of one of two")
  await ann.cut()
  await crowd.agree("a lost connection")
  await Promise.all([ann.crash(), bob.cut()])
  await crowd.agree("both at once")
  await crowd.agreeInTheEnd("all that")
}

export async function presence_outlives_a_forced_disconnect(stage) {
  const crowd = new Crowd(stage)
  const watcher = await crowd.enter()
  await Promise.all([crowd.enter("ann", { n: 1 }), crowd.enter("ann", { n: 2 })])
  await crowd.agree("the joins")
  const before = metasOf(watcher, "ann")
  await crowd.kick("ann")
  await crowd.agree("the disconnect")
  const refs = before.map(({ phx_ref }) => phx_ref)
  check(metasOf(watcher, "ann").every(({ phx_ref }) => !refs.includes(phx_ref)), "both have come anew")
}

export async function presence_outlives_a_restart(stage) {
  const crowd = new Crowd(stage)
  await crowd.put("robot", { n: 1 })
  const [ann, bob] = [await crowd.enter("ann", { n: 2 }), await crowd.enter("bob", { n: 3 })]
  await ann.update("ann", { n: 4 })
  await crowd.agree("the joins")
  const back = [ann, bob].map((tab) => tab.again(() => {}))
  await stage.ask("restart")
  await Promise.all(back)
  crowd.outside.clear() // it went with its process
  await crowd.agree("the restart")
}

export async function presence_ends_with_a_channel_that_stops(stage) {
  const crowd = new Crowd(stage)
  const [ann] = [await crowd.enter("ann"), await crowd.enter("bob")]
  await crowd.agree("the joins")
  const closed = new Notes("close")
  ann.channel.onClose(closed.hear)
  ann.channel.push("stop", {})
  await closed.until(1)
  ann.metas.clear()
  await crowd.agree("the stop")
  await ann.join()
  await crowd.agree("a join by a new channel")
}

export async function presence_without_a_channel(stage) {
  const crowd = new Crowd(stage)
  await crowd.put("robot", { n: 1 })
  await crowd.enter("ann")
  await crowd.agree("a robot before the first join")
  await crowd.put("ann", { n: 2 })
  await crowd.put("robot", { n: 3 })
  await crowd.agree("more robots")
  await crowd.remove("ann")
  await crowd.agree("one robot less")
}

export async function presence_with_more_told_of_each_key(stage) {
  const crowd = new Crowd(stage, "crew")
  const [ann, bob] = await Promise.all([crowd.enter("ann", { n: 1 }), crowd.enter("bob", { n: 2 })])
  await crowd.agree("the joins")
  equal(stateOf(ann.presence).bob.name, "Bob", "what is told of a key")
  await Promise.all([ann.update("ann", { n: 3 }), bob.crash(), crowd.enter("ann")])
  await crowd.agree("an update, a crash and a second tab")
  equal(stateOf(bob.presence).ann.name, "Ann", "what is told of the other key")
}

export async function presence_of_awkward_keys(stage) {
  const crowd = new Crowd(stage)
  await crowd.enter()
  for (const key of ["", "1", "constructor", "__proto__", "toString", "metas", "ä b/c?d#e%20\n🎉"]) {
    const tabs = [await crowd.enter(key, { key }), await crowd.enter(key, { again: key })]
    await tabs[0].update(key, { updated: key })
    await crowd.put(key, { robot: key })
    await crowd.agree(`two tabs and a robot of ${JSON.stringify(key)}`)
    for (const tab of tabs) await tab.leave()
    await crowd.agree(`the end of both tabs of ${JSON.stringify(key)}`)
    for (const tab of tabs) tab.vanish()
  }
}

/** Everything that a presence's callbacks are given, with the metas' numbers in the place of the metas. */
function callbacks(tab) {
  const notes = new Notes("callback")
  const numbers = (held) => held?.metas.map(({ n }) => n)
  tab.presence.onJoin((key, current, joined) => notes.hear(["join", key, numbers(current), numbers(joined)]))
  tab.presence.onLeave((key, current, left) => notes.hear(["leave", key, numbers(current), numbers(left)]))
  tab.presence.onSync(() => notes.hear(["sync"]))
  return notes
}

export async function presence_calls_back(stage) {
  const crowd = new Crowd(stage)
  const watcher = await crowd.enter()
  const notes = callbacks(watcher)
  const heard = async (act, expected, what) => {
    await act()
    await crowd.agree(what)
    equal(notes.all.splice(0), expected, `callbacks of ${what}`)
  }
  await crowd.agree("the first state")
  notes.all.splice(0)
  let phone, laptop
  const first = [["join", "ann", undefined, [1]], ["sync"]]
  await heard(async () => { phone = await crowd.enter("ann", { n: 1 }) }, first, "a first tab")
  const second = [["join", "ann", [1], [2]], ["sync"]]
  await heard(async () => { laptop = await crowd.enter("ann", { n: 2 }) }, second, "a second tab")
  const updated = [["join", "ann", [1, 2], [3]], ["leave", "ann", [2, 3], [1]], ["sync"]]
  await heard(() => phone.update("ann", { n: 3 }), updated, "an update")
  const fewer = [["leave", "ann", [3], [2]], ["sync"]]
  await heard(() => laptop.leave(), fewer, "a tab less")

  const errors = new Notes("error")
  watcher.channel.onError(errors.hear)
  await heard(async () => {
    const back = watcher.crash()
    await errors.until(1)
    await phone.update("ann", { n: 4 }) // told by the state of the next join, or by a diff behind it
    await back
    await crowd.agree("a crash of who listens")
    notes.all = notes.all.filter(([what]) => what !== "sync")
  }, [["join", "ann", [3], [4]], ["leave", "ann", [4], [3]]], "what was missed")
  await heard(() => phone.leave(), [["leave", "ann", [], [4]], ["sync"]], "the last tab")
}
