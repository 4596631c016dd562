// What is opened beside the page: a topic, a client, or what was searched for.

import { Sparkline } from "./charts.mjs"
import { age, bytes, clock, count, keep, make, say } from "./parts.mjs"

/** Messages of a topic that are shown. */
const SHOWN = 50

const find = (selector) => document.querySelector(selector)

function figure(label) {
  const value = make("b", {}, "–")
  return { element: make("div", {}, value, make("span", {}, label)), set: (text) => say(value, text) }
}

/** A connection is named by its node and its number there. */
export const nodeOf = (connection) => connection.slice(0, connection.lastIndexOf("-"))
export const numberOf = (connection) => connection.slice(connection.lastIndexOf("-") + 1)

/** How many of all are not among those that are shown. */
function rest(all, shown) {
  if (!all) return "none"
  return all > shown.length ? `and ${count(all - shown.length)} more` : ""
}

function section(title, ...children) {
  const note = make("p", { class: "note" })
  return Object.assign(make("section", {}, make("div", { class: "head" }, make("h3", {}, title), note), ...children), { note })
}

/** One thing at a time; what it shows comes through a channel that is left when it is closed. */
export class Sheet {
  constructor(socket, topic, overview, nameOf) {
    Object.assign(this, { socket, prefix: topic, overview, nameOf })
    this.dialog = find("#sheet")
    this.body = find("#sheet-body")
    find("#sheet-close").addEventListener("click", () => this.dialog.close())
    this.dialog.addEventListener("close", () => this.leave())
    this.dialog.addEventListener("click", (event) => { if (event.target === this.dialog) this.dialog.close() })
  }

  leave() {
    this.channel?.leave()
    this.line?.end()
    this.channel = this.line = null
  }

  show(kind, title, ...children) {
    this.leave()
    say(find("#sheet-kind"), kind)
    say(find("#sheet-title"), title)
    this.body.replaceChildren(...children)
    this.body.scrollTop = 0
    if (!this.dialog.open) this.dialog.showModal()
    find("#sheet-title").focus()
  }

  follow(kind, parameters, handlers) {
    const channel = (this.channel = this.socket.channel(`${this.prefix}:${kind}`, parameters))
    const refuse = ({ reason }) => this.body.replaceChildren(make("section", {}, make("p", { class: "more" }, reason ?? "refused")))
    for (const [event, handle] of Object.entries({ ...handlers, failed: refuse })) channel.on(event, (told) => { if (this.channel === channel) handle(told) })
    channel.join().receive("error", (response) => { if (this.channel === channel) refuse(response) })
    return channel
  }

  clientRow(client) {
    const name = make("span", { class: "name" }, client.id ?? `client ${numberOf(client.connection)}`)
    const more = make("span", { class: "more" })
    const end = make("span", { class: "end" })
    return Object.assign(make("li", {}, make("button", {
      class: "line", type: "button", onclick: () => this.client(client.connection),
    }, name, more, end)), { more, end })
  }

  keepClients(list, clients) {
    keep(list, clients, ({ connection }) => connection, (client) => this.clientRow(client), (row, client) => {
      say(row.more, `${client.transport}, on ${this.nameOf(nodeOf(client.connection))} for ${age(client.seconds)}`)
      say(row.end, client.outbox_bytes ? `${bytes(client.outbox_bytes)} wait` : "")
    })
  }

  // A topic

  topic(name) {
    const numbers = { subscribers: figure("subscribers"), rate: figure("messages / s"), size: figure("per message") }
    const traffic = make("ol", { class: "list traffic" })
    const members = make("ol", { class: "list" })
    const present = make("div", { class: "chips" })
    const pause = make("button", { class: "small", type: "button", "aria-pressed": "false" }, "Pause")
    const heard = section("What is broadcast", traffic)
    heard.note.replaceWith(pause)
    pause.parentElement.append(make("span", { class: "note" }))
    const skipped = pause.nextSibling
    pause.before(skipped)
    const who = section("Members", members)
    const there = section("Present", present)
    there.hidden = true
    const rate = new Sparkline("s-deliveries", { least: 4 })
    this.show("Topic", name,
      make("section", {}, make("div", { class: "numbers" }, ...Object.values(numbers).map(({ element }) => element)),
        make("div", { class: "plot" }, rate.element)), heard, there, who)
    this.line = rate
    let paused = false
    pause.addEventListener("click", () => {
      paused = !paused
      pause.setAttribute("aria-pressed", String(paused))
      say(pause, paused ? "Go on" : "Pause")
    })
    this.follow("topic", { topic: name }, {
      facts: ({ clients, count: subscribers, present: keys, present_count: all }) => {
        numbers.subscribers.set(count(subscribers))
        this.keepClients(members, clients)
        say(who.note, rest(subscribers, clients))
        there.hidden = !keys.length
        keep(present, keys, (key) => key, (key) => make("span", { class: "chip" }, key))
        say(there.note, rest(all, keys))
      },
      rate: ({ at, messages, bytes: size }) => {
        numbers.rate.set(count(messages))
        numbers.size.set(messages ? bytes(size / messages) : "–")
        rate.note(at, messages)
        rate.redraw()
      },
      traffic: ({ messages, skipped: left }) => {
        if (paused) return
        say(skipped, left ? `${count(left)} not shown` : "")
        for (const message of messages) {
          traffic.prepend(make("li", { class: "fresh", tabindex: "0" }, make("time", {}, clock(message.at)),
            make("span", { class: "event" }, message.event), make("span", { class: "size" }, bytes(message.size)),
            make("code", { class: "payload" }, message.payload)))
        }
        while (traffic.children.length > SHOWN) traffic.lastElementChild.remove()
      },
    })
  }

  // A client

  client(connection) {
    const [node, number] = [nodeOf(connection), numberOf(connection)]
    const numbers = { seconds: figure("connected"), waiting: figure("wait for it"), inbox: figure("wait to be handled") }
    const facts = make("dl", { class: "facts" })
    const channels = make("ol", { class: "list" })
    const joined = section("Channels", channels)
    const close = make("button", { class: "danger", type: "button" }, "Close this connection")
    const foot = make("div", { class: "foot" }, close)
    this.show(`Client ${number} of worker ${this.nameOf(node)}`, `client ${number}`,
      make("section", {}, make("div", { class: "numbers" }, ...Object.values(numbers).map(({ element }) => element))),
      section("Facts", facts), joined, foot)
    const channel = this.follow("client", { connection }, {
      facts: (client) => {
        say(find("#sheet-title"), client.id ?? `client ${number}`)
        numbers.seconds.set(age(client.seconds))
        numbers.waiting.set(bytes(client.outbox_bytes))
        numbers.inbox.set(bytes(client.inbox_bytes))
        const pairs = [["Socket", client.socket], ["Mounted at", client.mount], ["Transport", client.transport],
          ["Parameters", client.params], ["Went without", `${count(client.missed)} broadcasts`]]
        keep(facts, pairs.flatMap(([name, value]) => [["dt", name, name], ["dd", name, value]]), ([tag, name]) => `${tag} ${name}`,
          ([tag, name]) => make(tag, {}, tag === "dt" ? name : ""), (element, [, , value]) => say(element, value))
        say(joined.note, rest(client.channels, client.topics))
        keep(channels, client.topics, (topic) => topic, (topic) => make("li", {}, make("button", {
          class: "line", type: "button", onclick: () => this.topic(topic),
        }, make("span", { class: "name" }, topic))))
      },
      ended: () => {
        foot.replaceChildren(make("p", { class: "more", role: "status" }, "This connection has ended."))
        this.dialog.focus()
      },
    })
    close.addEventListener("click", async () => {
      const title = find("#sheet-title").textContent
      if (!(await this.ask(`Close the connection of ${title}?`, "Its client is told to go (1001). It comes back by itself if it may."))) return
      close.disabled = true
      channel.push("close", {}).receive("error", ({ reason }) => { close.disabled = false; say(close, reason ?? "It failed. Try again") })
    })
  }

  ask(title, text) {
    const dialog = find("#ask")
    say(find("#ask-title"), title)
    say(find("#ask-text"), text)
    dialog.returnValue = "no"
    dialog.showModal()
    return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }))
  }

  // What was searched for

  search(text) {
    const clients = make("ol", { class: "list" })
    const found = section("Clients", clients)
    this.show("Search", text, found)
    say(found.note, "Asking all workers")
    this.overview.push("find", { text })
      .receive("ok", ({ clients: some, count: all }) => {
        this.keepClients(clients, some)
        say(found.note, some.length ? rest(all, some) : "none: type an id, a topic, or room:* for all that begin so")
      })
      .receive("error", ({ reason }) => say(found.note, reason ?? "refused"))
      .receive("timeout", () => say(found.note, "no answer"))
  }
}
