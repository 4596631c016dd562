// Tabs with the npm client, each present under a key of its own, that are told what to do:
//
//     node tabs.mjs URL TOPIC KEY...
//
// The first tabs are connected to a worker each, as far as there are workers: WORKERS in the environment. When all have
// joined, and then in answer to each line, it tells of every tab its worker, and what its Presence holds. A line is
// ["states"], or [name of a method of the tab, number of the tab, arguments...].

import { Presence, Socket } from "phoenix"
import WebSocket from "ws"
import { hear, tell } from "./lines.mjs"
import { answer, joins, ok } from "./stories/stage.mjs"

const [url, topic, ...keys] = process.argv.slice(2)
const workers = Number(process.env.WORKERS)

class Tab {
  constructor(key) {
    this.key = key
    this.socket = new Socket(`${url.replace(/^http/, "ws")}/socket`, {
      transport: WebSocket, vsn: "2.0.0", reconnectAfterMs: () => 25, rejoinAfterMs: () => 25,
    })
  }

  /** Connects to any worker but some. */
  async connect(others) {
    for (;;) {
      this.socket.connect()
      const probe = this.socket.channel("crowd:probe")
      const { worker } = await ok(probe.join(), "join of the probe")
      await answer(probe.leave(), "leave of the probe")
      if (!others.includes(worker)) return worker
      await new Promise((resolve) => this.socket.disconnect(resolve))
    }
  }

  async join() {
    this.channel = this.socket.channel(topic, { key: this.key })
    this.presence = new Presence(this.channel)
    this.joins = joins(this.channel)
    await this.joins.until(1)
  }

  update(meta) {
    return ok(this.channel.push("update", { key: this.key, meta }), "update")
  }

  leave() {
    return ok(this.channel.leave(), "leave")
  }

  get told() {
    const state = Object.fromEntries(this.presence.list((key, held) => [key, held]))
    return { worker: this.joins.all.at(-1).worker, joins: this.joins.all.length, state }
  }
}

const tabs = keys.map((key) => new Tab(key))
const taken = []
for (const [number, tab] of tabs.entries()) taken.push(await tab.connect(number < workers ? taken : []))
for (const tab of tabs) await tab.join()
for (;;) {
  await tell(tabs.map(({ told }) => told))
  const [what, number, ...values] = await hear()
  if (what !== "states") await tabs[number][what](...values)
}
