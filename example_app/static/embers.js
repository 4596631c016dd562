// @ts-check
// The field as it was heard, and as it is in between. No page, no network.

/**
 * @typedef {{ number: number, nickname: string, hue: number }} Player
 * @typedef {{ x: number, y: number }} Place
 * @typedef {Place & { number: number, score: number, carries: number }} Told
 * @typedef {Told & { from: Place, to: Place, tail: Place[], lean: number, look: Place }} Flame
 * @typedef {Place & { since: number }} Ember
 */

const GLIDE = 65 // milliseconds in which a flame goes to where it was told to be: the time between two frames, and a bit
const [TAIL, STEP] = [24, 6] // how many places of its way a flame remembers, for its embers to follow, and how far apart

export class Embers {
  /** @type {Map<number, Player>} */
  players = new Map()
  /** @type {(about: { kind: "took" | "fed", place: Place, count: number, mine: number }) => void} */
  onChange = () => {}

  /** @type {Map<number, Flame>} */
  flames = new Map()
  /** @type {Ember[]} */
  embers = []
  warmth = 60
  frames = 0 // how many were heard
  heard = 0 // when the last one was

  clear() {
    this.players.clear()
    this.flames.clear()
    this.embers = []
  }

  /** @param {Player[]} players */
  meet(players) {
    this.players = new Map(players.map((player) => [player.number, player]))
  }

  /**
   * Takes a frame, as field.py writes it.
   *
   * @param {ArrayBuffer} frame
   * @param {number} now
   */
  hear(frame, now) {
    const view = new DataView(frame)
    const [embers, flames] = [view.getUint8(1), view.getUint8(2)]
    let at = 3
    this.warmth = view.getUint8(0)
    for (let index = 0; index < embers; index += 1, at += 4) {
      this.#place(index, { x: view.getUint16(at, true), y: view.getUint16(at + 2, true) }, now)
    }
    const gone = new Set(this.flames.keys())
    for (let index = 0; index < flames; index += 1, at += 11) {
      const number = view.getUint32(at, true)
      const [x, y] = [view.getUint16(at + 4, true) / 10, view.getUint16(at + 6, true) / 10]
      this.#move({ number, x, y, score: view.getUint16(at + 8, true), carries: view.getUint8(at + 10) }, now)
      gone.delete(number)
    }
    gone.forEach((number) => this.flames.delete(number))
    this.heard = now
    this.frames += 1
  }

  /**
   * @param {number} index
   * @param {Place} place
   * @param {number} now
   */
  #place(index, place, now) {
    const known = this.embers[index]
    if (known?.x === place.x && known.y === place.y) return
    this.embers[index] = { ...place, since: known ? now : -Infinity }
  }

  /**
   * @param {Told} told
   * @param {number} now
   */
  #move(told, now) {
    const { x, y } = told
    const known = this.flames.get(told.number)
    if (!known) {
      this.flames.set(told.number, { ...told, from: { x, y }, to: { x, y }, tail: [], lean: 0, look: { x: 0, y: 0 } })
      return
    }
    if (told.carries > known.carries) this.onChange({ kind: "took", place: { x, y }, count: 1, mine: told.number })
    if (told.score > known.score) {
      this.onChange({ kind: "fed", place: { x, y }, count: told.score - known.score, mine: told.number })
    }
    known.from = this.#between(known, now)
    known.to = { x, y }
    known.score = told.score
    known.carries = told.carries
  }

  /**
   * @param {Flame} flame
   * @param {number} now
   */
  #between({ from, to }, now) {
    const share = Math.min(1, (now - this.heard) / GLIDE)
    return { x: from.x + (to.x - from.x) * share, y: from.y + (to.y - from.y) * share }
  }

  /**
   * Moves all flames to where they are now.
   *
   * @param {number} now
   */
  glide(now) {
    for (const flame of this.flames.values()) {
      const { x, y } = this.#between(flame, now)
      const [dx, dy] = [flame.to.x - flame.from.x, flame.to.y - flame.from.y]
      flame.lean += (Math.max(-1, Math.min(1, dx / 20)) - flame.lean) * 0.15
      flame.look.x += (Math.max(-1, Math.min(1, dx / 12)) - flame.look.x) * 0.2
      flame.look.y += (Math.max(-1, Math.min(1, dy / 12)) - flame.look.y) * 0.2
      Object.assign(flame, { x, y })
      remember(flame.tail, { x, y })
    }
  }

  /** Who plays, the best first. */
  ranks() {
    return [...this.players.values()]
      .map((player) => ({ ...player, score: this.flames.get(player.number)?.score ?? 0 }))
      .sort((one, other) => other.score - one.score || one.nickname.localeCompare(other.nickname))
  }
}

/**
 * @param {Place[]} tail
 * @param {Place} place
 */
function remember(tail, { x, y }) {
  let last = tail[0]
  if (!last) tail.push({ x, y })
  for (let far; last && (far = Math.hypot(x - last.x, y - last.y)) > STEP; ) {
    last = { x: last.x + ((x - last.x) * STEP) / far, y: last.y + ((y - last.y) * STEP) / far }
    tail.unshift(last)
  }
  tail.length = Math.min(tail.length, TAIL)
}
