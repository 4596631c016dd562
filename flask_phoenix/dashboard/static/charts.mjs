// Lines and bands that move: each second they are drawn once, and in between the browser's compositor slides the
// picture, which costs this page nothing.

import { clock, draw, make, say } from "./parts.mjs"

/** Seconds that a picture shows, and by which it lags: the newest point has come by the time it is due at the edge. */
const SPAN = 120
const DELAY = 1.6
/** Seconds without a point after which a line is broken. */
const GAP = 2.6
const STILL = matchMedia("(prefers-reduced-motion: reduce)")

/** Seconds for which a picture slides on if nothing new comes. */
const RUN = 4

/** The server's clock, less this page's, in seconds. */
let offset = null
let origin = 0

/** Learns the server's clock from a message that has just come. */
export function setClock(at) {
  const difference = at - performance.now() / 1000
  if (offset === null || Math.abs(difference - offset) > 3) {
    offset = difference
    origin = origin || Math.floor(at)
  } else offset += (difference - offset) * 0.1
}

const now = () => (offset === null ? origin : performance.now() / 1000 + offset)

/** The least of 1, 2, 2.5, 5 times a power of ten that is not below a value. */
function nice(value, least) {
  value = Math.max(value, least)
  const power = 10 ** Math.floor(Math.log10(value))
  for (const step of [1, 1.5, 2, 2.5, 4, 5, 8, 10]) if (value <= step * power * 1.0001) return step * power
  return 10 * power
}

/** A smooth path through points that never rises above or falls below them (Fritsch and Carlson's monotone cubics). */
function smooth(points) {
  const count = points.length
  if (!count) return ""
  const slopes = []
  for (let at = 0; at < count - 1; at += 1) {
    slopes.push((points[at + 1][1] - points[at][1]) / (points[at + 1][0] - points[at][0] || 1e-6))
  }
  const tangent = points.map((_, at) => {
    const [before, after] = [slopes[at - 1], slopes[at]]
    if (before === undefined || after === undefined) return before ?? after ?? 0
    return before * after <= 0 ? 0 : (2 * before * after) / (before + after)
  })
  let path = `M${fixed(points[0][0])} ${fixed(points[0][1])}`
  for (let at = 0; at < count - 1; at += 1) {
    const [[x0, y0], [x1, y1]] = [points[at], points[at + 1]]
    const third = (x1 - x0) / 3
    path += `C${fixed(x0 + third)} ${fixed(y0 + tangent[at] * third)} ${fixed(x1 - third)} ${fixed(y1 - tangent[at + 1] * third)} ${fixed(x1)} ${fixed(y1)}`
  }
  return path
}

const fixed = (value) => +value.toFixed(1)

/** Cuts a series where it has holes. */
function runs(points) {
  const found = []
  let run = null
  for (const point of points) {
    if (point[1] == null) { run = null; continue }
    if (!run || point[0] - run[run.length - 1][0] > GAP) found.push((run = []))
    run.push(point)
  }
  return found
}

/** The area between a path and another one below it. */
function between(run, below) {
  return `${smooth(run)}L${smooth([...below].reverse()).slice(1)}Z`
}

class Series {
  constructor(name, style, kind) {
    Object.assign(this, { name, style, kind, points: [] })
    this.group = draw("g", { class: style })
    this.fill = draw("path", { fill: "currentColor", "fill-opacity": kind === "band" ? 0.16 : 0.1, stroke: "none" })
    this.upper = draw("path", { class: "stroke thin", stroke: "currentColor" })
    this.line = draw("path", { class: "stroke", stroke: "currentColor" })
    if (kind !== "line") this.group.append(this.fill)
    if (kind === "band") this.group.append(this.upper)
    this.group.append(this.line)
  }

  /** A point: its time, its value, and of a band its upper value. */
  push(point) {
    this.points.push(point)
    while (this.points.length && this.points[0][0] < point[0] - SPAN - 10) this.points.shift()
  }

  get most() {
    return this.points.reduce((most, [, value, upper]) => Math.max(most, value ?? 0, upper ?? 0), 0)
  }

  /** Draws it, with what makes pixels of a time and a value. */
  redraw(across, down) {
    const place = (upper) => ([time, value, more]) => [across(time), down(upper ? more ?? value : value)]
    const lines = runs(this.points)
    const paths = lines.map((run) => run.map(place(false)))
    this.line.setAttribute("d", paths.map(smooth).join(""))
    if (this.kind === "line") return
    const uppers = lines.map((run) => run.map(place(true)))
    if (this.kind === "band") this.upper.setAttribute("d", uppers.map(smooth).join(""))
    const below = (path) => (this.kind === "band" ? path : [[path[0][0], down(0)], [path.at(-1)[0], down(0)]])
    this.fill.setAttribute("d", paths.map((path, at) => between(uppers[at], below(path))).join(""))
  }

  /** The point at a time, or the one before it. */
  at(time) {
    for (let index = this.points.length - 1; index >= 0; index -= 1) {
      if (this.points[index][0] <= time + 0.5) return time - this.points[index][0] > GAP ? null : this.points[index]
    }
    return null
  }
}

/** A picture without axes. */
export class Sparkline {
  constructor(style, { least = 1, kind = "area" } = {}) {
    Object.assign(this, { least, head: 3, foot: 0, top: 0, width: 0, height: 0 })
    this.series = [new Series("", style, kind)]
    this.plane = draw("svg", { class: "plane", "aria-hidden": "true" }, this.series[0].group)
    this.stretch = make("div", { class: "stretch" }, this.plane)
    this.element = make("div", { class: "window" }, this.stretch)
    this.observer = new ResizeObserver(([{ contentRect }]) => {
      this.width = contentRect.width
      this.height = contentRect.height
      this.resized?.()
      this.redraw()
    })
    this.observer.observe(this.element)
  }

  /** Takes a point, which the next redraw shows. */
  note(at, value) {
    this.series[0].push([at - origin, value])
  }

  get start() {
    return now() - DELAY - SPAN - origin
  }

  redraw() {
    if (!this.width || offset === null) return
    const [start, step, ground] = [this.start, this.width / SPAN, this.height - this.foot]
    const goal = nice(Math.max(0, ...this.series.map((series) => series.most)) * 1.08, this.least)
    const unit = (ground - this.head) / goal
    for (const series of this.series) series.redraw((time) => (time - start) * step, (value) => ground - value * unit)
    this.scroll?.cancel()
    if (STILL.matches) return this.rescale(goal)
    this.scroll = this.plane.animate([{ transform: "none" }, { transform: `translateX(${-RUN * step}px)` }], RUN * 1000)
    if (this.top && this.top !== goal) {
      this.stretch.style.transformOrigin = `0 ${ground}px`
      this.stretch.animate([{ transform: `scaleY(${goal / this.top})` }, { transform: "none" }], { duration: 500, easing: "ease-out" })
    }
    this.rescale(goal)
  }

  rescale(goal) {
    const changed = this.top !== goal
    this.top = goal
    if (changed) this.scaled?.()
  }

  end() {
    this.scroll?.cancel()
    this.observer.disconnect()
  }
}

/** A picture with a scale, a legend, and what it says at a moment. */
export class Chart extends Sparkline {
  constructor(title, { least, format, legend = true }) {
    super("s-quiet", { least })
    Object.assign(this, { title, format, head: 14, foot: 20 })
    this.series = []
    this.plane.replaceChildren()
    this.grid = draw("g", { class: "grid" })
    this.times = draw("g", {})
    this.axes = draw("svg", { role: "img" }, this.grid, this.times)
    this.hair = make("div", { class: "hair", hidden: true })
    this.legend = make("div", { class: "legend" })
    this.tip = make("div", { class: "tip", hidden: true })
    this.plot = make("div", { class: "plot" }, this.axes, this.element, this.hair, this.tip)
    this.card = make("article", { class: "card chart" },
      make("div", { class: "head" }, make("h2", {}, title), legend ? this.legend : null), this.plot)
    this.plot.addEventListener("pointermove", (event) => this.point(event))
    this.plot.addEventListener("pointerleave", () => this.unpoint())
  }

  add(name, style, kind = "line") {
    const series = new Series(name, style, kind)
    this.series.push(series)
    this.plane.append(series.group)
    series.value = make("b", {}, "–")
    series.entry = make("span", {}, make("i", { class: style }), name, series.value)
    this.legend.append(series.entry)
    return series
  }

  drop(series) {
    series.group.remove()
    series.entry.remove()
    this.series.splice(this.series.indexOf(series), 1)
  }

  resized() {
    const labels = this.width > 520 ? [[1, "now", "end"], [0.75, "30 s ago", "middle"], [0.5, "1 min", "middle"], [0.25, "90 s", "middle"], [0, "2 min ago", "start"]]
      : [[1, "now", "end"], [0.5, "1 min", "middle"], [0, "2 min ago", "start"]]
    const y = this.height - 6
    this.times.replaceChildren(...labels.map(([share, text, anchor]) => {
      const x = Math.min(Math.max(share * this.width, 14), this.width - 14)
      return draw("text", { x, y, "text-anchor": anchor }, text)
    }))
    this.scaled()
  }

  /** Draws the lines of the scale anew. */
  scaled() {
    if (!this.width || !this.top) return
    const ground = this.height - this.foot
    const marks = [0, 0.5, 1].map((share) => {
      const y = Math.round(ground - share * (ground - this.head)) + 0.5
      const label = share ? draw("text", { x: 14, y: y - 4 }, this.format(share * this.top)) : ""
      return draw("g", {}, draw("line", { x1: 0, x2: this.width, y1: y, y2: y }), label)
    })
    this.grid.replaceChildren(...marks)
  }

  redraw() {
    super.redraw()
    if (this.pointed) this.point(this.pointed)
  }

  /** Takes a second of all series: name to value, or to the two values of a band. */
  take(at, values) {
    for (const series of this.series) {
      const value = values[series.name] ?? null
      const pair = Array.isArray(value) ? value : [value]
      series.push([at - origin, ...pair])
      series.entry.classList.toggle("off", pair[0] == null)
      say(series.value, pair[1] == null ? this.format(pair[0]) : `${this.format(pair[0])} · ${this.format(pair[1])}`)
    }
  }

  /** Says in words what is drawn. */
  describe() {
    const words = this.series.map((series) => `${series.name} ${series.value.textContent}`).join(", ")
    this.axes.setAttribute("aria-label", `${this.title}, the last two minutes. Now: ${words}`)
  }

  point(event) {
    this.pointed = { clientX: event.clientX }
    const x = event.clientX - this.plot.getBoundingClientRect().left
    const time = this.start + (x / this.width) * SPAN
    const found = this.series.map((series) => [series, series.at(time)]).filter(([, point]) => point && point[1] != null)
    this.tip.hidden = !found.length
    this.hair.hidden = !found.length
    if (!found.length) return
    this.hair.style.left = `${x}px`
    this.tip.replaceChildren(make("div", {}, clock(found[0][1][0] + origin)), ...found.map(([series, [, value, upper]]) =>
      make("div", { class: "row" }, make("i", { class: series.style }), series.name,
        make("b", {}, upper == null ? this.format(value) : `${this.format(value)} · ${this.format(upper)}`))))
    const left = x > this.width / 2 ? x - this.tip.offsetWidth - 12 : x + 12
    this.tip.style.left = `${Math.max(4, left)}px`
  }

  unpoint() {
    this.pointed = null
    this.tip.hidden = true
    this.hair.hidden = true
  }
}
