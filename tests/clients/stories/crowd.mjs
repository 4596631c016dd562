// Tabs that are present on one topic, what is expected of them, and whether the server and every client agree with that.

import { answer, check, equal, joins, ok, ordered, within } from "./stage.mjs"

/** What is told of each meta without having been asked for. */
const TOLD = ["phx_ref", "phx_ref_prev"]
/** How often an echo is asked for, and how long it is waited for. */
const ECHOES = 3
const ECHO_PATIENCE = 3000
/** Between two looks at who is there: to ask without a pause would keep a core from all others. */
const PAUSE = 20

/** Somebody's tab: a connection, its channel, and what the client's Presence makes of it. */
class Tab {
  constructor(crowd, key, meta) {
    Object.assign(this, { crowd, key, meta })
    /** The metas that it is expected to have, by key. */
    this.metas = new Map()
    const user = key === undefined ? undefined : crowd.user(key)
    this.socket = crowd.stage.socket({ path: "/quick", params: user === undefined ? {} : { user } })
  }

  async join() {
    const { stage, topic } = this.crowd
    this.channel = this.socket.channel(topic, this.key === undefined ? {} : { key: this.key, meta: this.meta })
    this.presence = new stage.Presence(this.channel)
    this.joins = joins(this.channel)
    await this.joined(1)
  }

  async joined(times) {
    await this.joins.until(times)
    this.metas = new Map(this.key === undefined ? [] : [[this.key, this.meta]])
  }

  /** Does what makes the client join again, and waits until it has. */
  async again(act) {
    const times = this.joins.all.length + 1
    await act()
    await this.joined(times)
  }

  async track(key, meta) {
    await ok(this.channel.push("track", { key, meta }), `track of ${key}`)
    this.metas.set(key, meta)
  }

  async update(key, meta) {
    await ok(this.channel.push("update", { key, meta }), `update of ${key}`)
    this.metas.set(key, meta)
  }

  async untrack(key) {
    await ok(this.channel.push("untrack", { key }), `untrack of ${key}`)
    this.metas.delete(key)
  }

  crash() {
    return this.again(() => this.channel.push("crash", {}))
  }

  /** Ends the connection: by tearing it down, where the client has such means. */
  cut() {
    return this.again(() => {
      this.lingers()
      const { conn } = this.socket
      conn.terminate ? conn.terminate() : conn.close(4000, "cut")
    })
  }

  async leave() {
    await ok(this.channel.leave(), "leave")
    this.metas.clear()
  }

  /** Goes without a word of its channel. */
  vanish() {
    this.lingers()
    this.socket.disconnect()
    this.crowd.tabs.delete(this)
  }

  /** That a client polls no more is noticed after a while. */
  lingers() {
    if (this.crowd.stage.polls) this.crowd.ghosts.push(...this.metas)
    this.metas.clear()
  }

  /** Returns when the tab has heard all that was said before. A push is lost with its session: then comes another. */
  async echo() {
    const what = `echo to the tab of ${this.key}`
    for (let left = ECHOES; ; left--) {
      const { status } = await answer(this.channel.push("echo", {}, ECHO_PATIENCE), what)
      if (status === "ok") return
      check(status === "timeout" && left > 1, what)
    }
  }
}

export class Crowd {
  constructor(stage, family = "crowd") {
    this.stage = stage
    this.topic = stage.own(family)
    this.tabs = new Set()
    /** Who is present without a channel. */
    this.outside = new Map()
    /** Who may still be present, as key and meta. */
    this.ghosts = []
  }

  /** The id of all connections of a key, by which they can be disconnected. */
  user(key) {
    return this.stage.own(`user-${key}`)
  }

  /** A tab that has not joined yet; without a key it will only look. */
  open(key, meta = {}) {
    const tab = new Tab(this, key, meta)
    this.tabs.add(tab)
    return tab
  }

  async enter(key, meta) {
    const tab = this.open(key, meta)
    await tab.join()
    return tab
  }

  /** Disconnects all tabs of a key. */
  async kick(key) {
    const kicked = this.members().filter((tab) => tab.key === key)
    const back = kicked.map((tab) => tab.again(() => {}))
    await this.ask("disconnect", { user: this.user(key) }, { method: "POST" })
    await Promise.all(back)
  }

  async put(key, meta) {
    if (this.outside.has(key)) await this.remove(key)
    const [headers, body] = [{ "content-type": "application/json" }, JSON.stringify(meta)]
    await this.ask(`online/${this.topic}`, { key }, { method: "PUT", headers, body })
    this.outside.set(key, meta)
  }

  async remove(key) {
    await this.ask(`online/${this.topic}`, { key }, { method: "DELETE" })
    this.outside.delete(key)
  }

  /** The server's list. */
  list() {
    return this.ask(`online/${this.topic}`)
  }

  async ask(path, query, options) {
    const answer = await within(fetch(`${this.stage.url}/${path}?${new URLSearchParams(query)}`, options), "the view")
    equal(answer.status, 200, "status of the view")
    return answer.json()
  }

  /** Waits until the server and all clients agree on who is there, as expected, and sees that it stays so. */
  async agree(what) {
    let why
    const agreed = async () => {
      while ((why = await this.disagreement()) !== null) await new Promise((resolve) => setTimeout(resolve, PAUSE))
      if (!this.ghosts.length) why = await this.disagreement()
    }
    await within(agreed(), `all to agree after ${what}`).catch((error) => {
      throw new Error(`${error.message}: ${why}`)
    })
    check(why === null, `it stays as it was after ${what}: ${why}`)
  }

  /** As above, and nobody lingers any more. */
  async agreeInTheEnd(what) {
    const { ghosts } = this
    this.ghosts = []
    await this.agree(what).catch((error) => {
      throw new Error(`${error.message}; who might have lingered: ${ordered(ghosts)}`)
    })
  }

  /** What somebody does not agree with, if only for the moment; null when all agree. */
  async disagreement() {
    const list = await this.list()
    const [told, expected] = [lines(list), this.expected()]
    const ghosts = this.ghosts.map(line)
    const rest = without(told, expected)
    if (without(expected, told).length || without(rest, ghosts).length) {
      return `the server has ${told.join(" ")}, expected were ${expected.join(" ")}; ${ghosts.length} may linger`
    }
    for (const tab of this.members()) await tab.echo() // a browser that polls has few connections to one server
    const wrong = this.members().find((tab) => comparable(stateOf(tab.presence)) !== comparable(list))
    return wrong ? `a tab of ${wrong.key} has ${comparable(stateOf(wrong.presence))}, the server ${comparable(list)}` : null
  }

  /** The tabs with a channel. */
  members() {
    return [...this.tabs].filter(({ channel }) => channel && channel.state !== "closed")
  }

  expected() {
    const metas = [...this.tabs].flatMap((tab) => [...tab.metas])
    return [...metas, ...this.outside].map(line).sort()
  }
}

/** What a client's list holds, by key. */
export function stateOf(presence) {
  return Object.fromEntries(presence.list((key, held) => [key, held]))
}

/** The same text for what means the same: the order of metas means nothing. */
function comparable(state) {
  const sorted = ({ metas, ...more }) => ({ ...more, metas: [...metas].sort((a, b) => (a.phx_ref < b.phx_ref ? -1 : 1)) })
  return ordered(Object.fromEntries(Object.entries(state).map(([key, held]) => [key, sorted(held)])))
}

/** Each meta with its key, as it was asked for. */
function lines(state) {
  const asked = (meta) => Object.fromEntries(Object.entries(meta).filter(([name]) => !TOLD.includes(name)))
  return Object.entries(state).flatMap(([key, { metas }]) => metas.map((meta) => line([key, asked(meta)]))).sort()
}

function line([key, meta]) {
  return ordered([key, meta])
}

/** A list without what another one has, each as often as it is there. */
function without(list, other) {
  const left = [...other]
  return list.filter((each) => {
    const found = left.indexOf(each)
    if (found >= 0) left.splice(found, 1)
    return found < 0
  })
}
