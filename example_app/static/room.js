// What the browser knows of one room: its messages, what is unread, who is typing. No page, no network.

const TYPING_LASTS = 4000

export class Room {
  constructor(name, locked) {
    this.name = name
    this.locked = locked
    this.topic = `room:${name}`
    this.forget()
  }

  forget() {
    this.channel = null // set while the server counts us in
    this.refusal = null // why the last join was refused
    this.entries = [] // messages and system lines, oldest first
    this.loaded = false
    this.unread = 0
    this.draft = ""
    this.typists?.forEach(clearTimeout)
    this.typists = new Map()
  }

  shut() {
    return this.locked && !this.channel
  }

  // A server that restarted has forgotten what we still show, and may know what we missed: keep both.
  merge(messages) {
    const known = new Set(this.entries.map((entry) => entry.id))
    const missed = messages.filter((message) => !known.has(message.id))
    this.entries = [...this.entries, ...missed].sort((one, other) => one.at - other.at)
    const news = this.loaded ? missed : []
    this.loaded = true
    return news
  }

  has(message) {
    return this.entries.some((entry) => entry.id === message.id)
  }

  typing(nickname, changed) {
    clearTimeout(this.typists.get(nickname))
    this.typists.set(nickname, setTimeout(() => this.stopTyping(nickname, changed), TYPING_LASTS))
    changed(this)
  }

  stopTyping(nickname, changed) {
    clearTimeout(this.typists.get(nickname))
    if (this.typists.delete(nickname)) changed(this)
  }
}
