// Lines and bands that move: each point is drawn once, and the picture slides.
//
// A path is written in seconds and values; one transform of its group makes pixels of them. So a frame costs one
// attribute for each picture, and a new path is made only when a new second has come.

import { clock, draw, make, say } from "./parts.mjs"

/** Seconds that a picture shows, and by which it lags: the newest point has come by the time it is due at the edge. */
const SPAN = 120
const DELAY = 1.6
/** Seconds without a point after which a line is broken. */
const GAP = 2.6
const STILL = matchMedia("(prefers-reduced-motion: reduce)")

const pictures = new Set()
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

let last = 0
function frame(time) {
  if (time - last >= (STILL.matches ? 1000 : 32)) {
    last = time
    for (const picture of pictures) picture.slide()
  }
  requestAnimationFrame(frame)
}
requestAnimationFrame(frame)

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

const fixed = (value) => +value.toFixed(6)

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

/** The area between a path and another one, or the ground. */
function area(run, ground) {
  const back = ground ? smooth([...ground].reverse()) : `M${fixed(run[run.length - 1][0])} 0L${fixed(run[0][0])} 0`
  return `${smooth(run)}L${back.slice(1)}Z`
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

  redraw() {
    const lines = runs(this.points)
    this.line.setAttribute("d", lines.map(smooth).join(""))
    if (this.kind === "area") this.fill.setAttribute("d", lines.map((run) => area(run)).join(""))
    if (this.kind === "band") {
      const uppers = lines.map((run) => run.map(([time, , upper]) => [time, upper]))
      this.upper.setAttribute("d", uppers.map(smooth).join(""))
      this.fill.setAttribute("d", lines.map((run, at) => area(uppers[at], run)).join(""))
    }
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
    this.least = least
    this.series = [new Series("", style, kind)]
    this.plane = draw("g", {}, this.series[0].group)
    this.element = draw("svg", { "aria-hidden": "true", preserveAspectRatio: "none" }, this.plane)
    this.top = 0
    this.head = 3
    this.foot = 0
    watchSize(this, this.element)
    pictures.add(this)
  }

  push(at, value, upper) {
    this.series[0].push([at - origin, value, upper])
    this.redraw()
  }

  redraw() {
    for (const series of this.series) series.redraw()
    this.goal = nice(Math.max(0, ...this.series.map((series) => series.most)) * 1.08, this.least)
    this.top ||= this.goal
  }

  slide() {
    if (!this.width || document.hidden) return
    if (this.goal && this.top !== this.goal) {
      this.top += (this.goal - this.top) * (STILL.matches ? 1 : 0.14)
      if (Math.abs(this.top / this.goal - 1) < 0.002) this.top = this.goal
      this.scaled?.()
    }
    const [across, down] = [this.width / SPAN, (this.height - this.head - this.foot) / (this.top || 1)]
    const start = now() - DELAY - SPAN - origin
    this.plane.setAttribute("transform", `matrix(${across} 0 0 ${-down} ${-start * across} ${this.height - this.foot})`)
  }

  end() {
    pictures.delete(this)
    this.observer.disconnect()
  }
}

function watchSize(picture, element) {
  picture.observer = new ResizeObserver(([{ contentRect }]) => {
    picture.width = contentRect.width
    picture.height = contentRect.height
    picture.resized?.()
    picture.slide()
  })
  picture.observer.observe(element)
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
    this.hair = draw("line", { class: "hair", visibility: "hidden", y1: 0 })
    this.element.removeAttribute("preserveAspectRatio")
    this.element.removeAttribute("aria-hidden")
    this.element.setAttribute("role", "img")
    // The lines, cut off where the picture ends and above the scale of times.
    this.window = draw("svg", { x: 0, y: 0 }, this.plane)
    this.element.append(this.grid, this.window, this.times, this.hair)
    this.legend = make("div", { class: "legend" })
    this.tip = make("div", { class: "tip", hidden: true })
    this.plot = make("div", { class: "plot" }, this.element, this.tip)
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
    this.element.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`)
    this.window.setAttribute("width", this.width)
    this.window.setAttribute("height", Math.max(0, this.height - this.foot + 1))
    this.hair.setAttribute("y2", this.height - this.foot)
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
    if (!this.width || !this.goal) return
    const height = this.height - this.head - this.foot
    const ground = this.height - this.foot
    const marks = [0, 0.5, 1].map((share) => {
      const y = Math.round(ground - (share * this.goal * height) / this.top) + 0.5
      const parts = [draw("line", { x1: 0, x2: this.width, y1: y, y2: y })]
      if (share) parts.push(draw("text", { x: 14, y: y - 4 }, this.format(share * this.goal)))
      return y > -1 ? draw("g", {}, ...parts) : draw("g")
    })
    this.grid.replaceChildren(...marks)
  }

  redraw() {
    const goal = this.goal
    super.redraw()
    if (goal !== this.goal) this.scaled()
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
    this.element.setAttribute("aria-label", `${this.title}, the last two minutes. Now: ${words}`)
  }

  point(event) {
    this.pointed = { clientX: event.clientX }
    const x = event.clientX - this.plot.getBoundingClientRect().left
    const time = now() - DELAY - SPAN - origin + (x / this.width) * SPAN
    const found = this.series.map((series) => [series, series.at(time)]).filter(([, point]) => point && point[1] != null)
    this.tip.hidden = !found.length
    this.hair.setAttribute("visibility", found.length ? "visible" : "hidden")
    if (!found.length) return
    this.hair.setAttribute("x1", x)
    this.hair.setAttribute("x2", x)
    this.tip.replaceChildren(make("div", {}, clock(found[0][1][0] + origin)), ...found.map(([series, [, value, upper]]) =>
      make("div", { class: "row" }, make("i", { class: series.style }), series.name,
        make("b", {}, upper == null ? this.format(value) : `${this.format(value)} · ${this.format(upper)}`))))
    const left = x > this.width / 2 ? x - this.tip.offsetWidth - 12 : x + 12
    this.tip.style.left = `${Math.max(4, left)}px`
  }

  unpoint() {
    this.pointed = null
    this.tip.hidden = true
    this.hair.setAttribute("visibility", "hidden")
  }
}
