// Where the trams are: what was heard of them, and where they are in between. No page, no network.

// They are shown as they were so many milliseconds ago: by then the next position is known, to be moved towards, even
// if its message was a little late.
const LAG = 1000
// Who was not heard for so long does not glide to where he is now.
const GAP = 2000

export class Fleet {
  constructor() {
    this.clear()
  }

  clear() {
    this.trams = new Map()
    this.ahead = -Infinity // milliseconds that the publisher's clock is ahead of ours, or a little less
  }

  // Each line's positions come several times a second: [number, x, y, heading] of each of its trams.
  hear(line, { at, trams }, now) {
    // The message that was fastest on its way tells best; slowly forgotten, for no two clocks run alike.
    this.ahead = Math.max(this.ahead - 0.05, at - now)
    for (const [number, x, y, heading] of trams) {
      const last = this.trams.get(number)?.way.at(-1)
      if (!last || at - last.at > GAP) this.trams.set(number, { line, way: [] })
      const { way } = this.trams.get(number)
      way.push({ at, x, y, heading })
      if (way.length > 6) way.shift() // a page in the background hears, but does not draw
    }
  }

  forget(line) {
    for (const [number, tram] of this.trams) if (tram.line === line) this.trams.delete(number)
  }

  count(line) {
    return [...this.trams.values()].filter((tram) => tram.line === line).length
  }

  moving() {
    return [...this.trams.values()].filter(({ way }) => way.length > 1 && moved(way.at(-2), way.at(-1))).length
  }

  // All trams as they are to be drawn now.
  places(now) {
    const then = now + this.ahead - LAG
    return [...this.trams.values()].map(({ line, way }) => {
      while (way.length > 2 && way[1].at <= then) way.shift()
      return { line, ...between(way[0], way[1] ?? way[0], then) }
    })
  }
}

function moved(one, other) {
  return one.x !== other.x || one.y !== other.y
}

function between(one, other, then) {
  const share = Math.min(1, Math.max(0, (then - one.at) / (other.at - one.at || 1)))
  const turn = ((other.heading - one.heading + 540) % 360) - 180
  return {
    x: one.x + (other.x - one.x) * share,
    y: one.y + (other.y - one.y) * share,
    heading: one.heading + (Math.abs(turn) < 90 ? turn * share : 0), // at the last stop the front becomes the rear
  }
}
