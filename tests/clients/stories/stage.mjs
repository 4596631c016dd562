// What every story stands on: sockets that are taken down again, and waiting that always ends.

const PATIENCE = 30_000

/** The value of a promise, or an error that names what did not happen in time. */
export function within(promise, what, patience = PATIENCE) {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${patience} ms for ${what}`)), patience)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

/** The status and response with which a push was answered; "timeout" is a status, too. */
export function answer(push, what = "a reply") {
  const answered = new Promise((resolve) => {
    for (const status of ["ok", "error", "timeout"]) {
      push.receive(status, (response) => resolve({ status, response }))
    }
  })
  return within(answered, what)
}

/** The response of a push that has to be answered with "ok". */
export async function ok(push, what) {
  const { status, response } = await answer(push, what)
  equal(status, "ok", `status of ${what ?? "the reply"} (${JSON.stringify(response)})`)
  return response
}

/** The payload of the next such event on a channel. */
export function next(channel, event) {
  let ref
  const heard = new Promise((resolve) => { ref = channel.on(event, resolve) })
  return within(heard, `${event} on ${channel.topic}`).finally(() => channel.off(event, ref))
}

/** Remembers what is told to its `hear`, and lets a story wait until that is enough. */
export class Notes {
  constructor(what) {
    this.what = what
    this.all = []
    this.waiting = []
    this.hear = (value) => {
      this.all.push(value)
      this.waiting = this.waiting.filter((look) => !look())
    }
  }

  /** All that was heard, once `count` are there. */
  async until(count) {
    await within(new Promise((resolve) => {
      const look = () => this.all.length >= count && (resolve(), true)
      if (!look()) this.waiting.push(look)
    }), `${count} x ${this.what}`)
    return this.all
  }
}

/** Every response with which this join succeeds: the first, and those after each rejoin. */
export function joins(channel) {
  const notes = new Notes(`join of ${channel.topic}`)
  channel.join().receive("ok", notes.hear)
  return notes
}

export function check(truth, what) {
  if (!truth) throw new Error(`not so: ${what}`)
}

export function equal(actual, expected, what) {
  if (ordered(actual) !== ordered(expected)) {
    throw new Error(`${what}: expected ${ordered(expected)}, got ${ordered(actual)}`)
  }
}

/** JSON with sorted keys, because the order of keys means nothing; buffers as their numbers. */
export function ordered(value) {
  return JSON.stringify(value, (_, inner) => {
    if (inner instanceof ArrayBuffer) return { bytes: [...new Uint8Array(inner)] }
    if (inner === undefined) return "(undefined)"
    if (inner === null || typeof inner !== "object" || Array.isArray(inner)) return inner
    return Object.fromEntries(Object.entries(inner).sort(([a], [b]) => (a < b ? -1 : 1)))
  })
}

/** Where a story is played: its client, its server, and a way to ask for help from outside. */
export class Stage {
  constructor({ phoenix, WebSocket, transport = "websocket", url, vsn = "2.0.0", seed, ask, log }) {
    Object.assign(this, { Socket: phoenix.Socket, Presence: phoenix.Presence, WebSocket, url, vsn, ask, log })
    this.polls = transport === "longpoll"
    this.transport = this.polls ? phoenix.LongPoll : WebSocket
    this.name = Math.random().toString(36).slice(2)
    /** Of a random story: the same seed makes the same story. */
    this.seed = Number(seed ?? Math.floor(Math.random() * 2 ** 32))
    this.sockets = []
  }

  /** A topic, or a user, that no other story has. */
  own(prefix) {
    return `${prefix}:${this.name}`
  }

  /** A connected socket with little patience; its comings and goings are in `opens` and `closes`. */
  socket({ path = "/socket", ...options } = {}) {
    const socket = new this.Socket(`${this.url.replace(/^http/, "ws")}${path}`, {
      transport: this.transport,
      vsn: this.vsn,
      reconnectAfterMs: () => 25,
      rejoinAfterMs: () => 25,
      logger: (kind, text, data) => this.log(kind, text, data),
      ...this.format(),
      ...options,
    })
    socket.opens = new Notes("open")
    socket.closes = new Notes("close")
    socket.onOpen(() => socket.opens.hear(true))
    socket.onClose((event) => socket.closes.hear(event.code))
    this.sockets.push(socket)
    socket.connect()
    return socket
  }

  /** The client writes version 2 whatever `vsn` says; for version 1 it is told how. */
  format() {
    if (this.vsn !== "1.0.0") return {}
    return {
      encode: (message, done) => done(JSON.stringify(message)),
      decode: (text, done) => done(JSON.parse(text)),
    }
  }

  /** A joined channel. */
  async joined(socket, topic, params = {}) {
    const channel = socket.channel(topic, params)
    await ok(channel.join(), `join of ${topic}`)
    return channel
  }

  clear() {
    for (const socket of this.sockets) socket.disconnect()
  }
}
