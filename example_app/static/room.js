// What the browser knows of one room: its messages, what is unread, who is there. No page, no network.

export class Room {
  constructor(name, locked) {
    this.name = name
    this.locked = locked
    this.topic = `room:${name}`
    this.forget()
  }

  forget() {
    this.refusal = null // why the last join was refused
    this.entries = [] // messages and system lines, oldest first
    this.loaded = false
    this.unread = 0
    this.due = 0 // messages that were missed and follow
    this.parted = false
    this.draft = ""
    this.arrive(null)
  }

  // A join begins anew what is known of each other: what the server was told of us, and what we of others.
  arrive(channel) {
    this.channel = channel
    this.told = { away: false, typing: false }
    this.met = false
    if (!channel) this.people = []
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

  // So many messages follow that were missed; the answer is how many were, once all have come.
  follow(count) {
    this.due = count
    this.caught = 0
    return 0
  }

  took(isMessage) {
    if (!this.due) return 0
    this.due -= 1
    this.caught += isMessage
    return this.due ? 0 : this.caught
  }

  // Some were missed and do not follow.
  part() {
    this.parted = true
  }

  // Whether the last messages of the room reach back to what we have, if that is in doubt.
  joins(messages) {
    if (!this.parted) return null
    this.parted = false
    return !messages.length || messages.some((message) => this.has(message)) || !this.entries.some(({ id }) => id)
  }

  has(message) {
    return this.entries.some((entry) => entry.id === message.id)
  }

  // Who came and who left; whoever is there when we come is no news.
  meet(people) {
    const [before, after] = [this.people, people].map((each) => new Set(each.map(({ nickname }) => nickname)))
    const came = people.filter(({ nickname }) => this.met && !before.has(nickname))
    const left = this.people.filter(({ nickname }) => this.met && !after.has(nickname))
    this.people = people
    this.met = true
    return { came, left }
  }
}
