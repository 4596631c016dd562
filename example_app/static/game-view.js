// @ts-check
// The game's page: the field on a canvas, which shows a part of it where the window is narrow, and all that stands around.

import "./drawer.js"
import { avatar, element } from "./elements.js"

/**
 * @typedef {import("./embers.js").Embers} Embers
 * @typedef {import("./embers.js").Place} Place
 * @typedef {import("./embers.js").Flame} Flame
 * @typedef {Place & { dx: number, dy: number, age: number, lasts: number, size: number, text?: string }} Spark
 */

/** @type {Record<string, any>} */
const page = Object.fromEntries([...document.querySelectorAll("[id]")].map((found) => [found.id, found]))

/** @type {HTMLCanvasElement} */
export const canvas = page.field
const pen = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"))
const [width, height, hearthX, hearthY] = ["width", "height", "hearthX", "hearthY"].map((key) => Number(canvas.dataset[key]))
export const hearth = { x: hearthX, y: hearthY }
const calm = matchMedia("(prefers-reduced-motion: reduce)")
const TAGLINE = page.told.textContent
const STILL = 1000 // milliseconds without a frame, after which it is said why
const SPACING = 4 // places of its way between two embers that a flame carries

/** @type {Record<string, string>} */
let colours = {}
/** @type {HTMLCanvasElement} */
let ground = document.createElement("canvas")
/** @type {Map<string, HTMLCanvasElement>} */
const lights = new Map() // by colour
/** @type {Spark[]} */
let sparks = []
let scale = 1 // pixels of the page for one unit of the field
let camera = { ...hearth } // the place in the middle of the canvas
let drawnAt = 0
let still = false // no frame comes: the worker that ran the field has ended
/** @type {ReturnType<typeof setTimeout> | undefined} */
let telling
/** @type {Embers} */
let embers
/** @type {() => number | null} */
let mine

// What stands around the field

/** @param {(nickname: string, hue: number) => void} play */
export function onEnter(play) {
  page.entry.addEventListener("submit", (/** @type {SubmitEvent} */ event) => {
    event.preventDefault()
    play(page.nickname.value.trim(), Number(page.entry.elements.hue.value))
  })
}

/** @param {() => void} leave */
export const onLeave = (leave) => page.leave.addEventListener("click", leave)

/**
 * @param {string | null} nickname
 * @param {string | null} hue
 */
export function remember(nickname, hue) {
  page.nickname.value = nickname ?? ""
  const choices = page.entry.elements.hue
  const index = [...choices].findIndex(({ value }) => value === hue)
  choices[index < 0 ? Math.floor(Math.random() * choices.length) : index].checked = true
}

/** @param {boolean} is */
export function entering(is) {
  page["entry-error"].textContent = ""
  page.enter.disabled = is
}

/**
 * @param {string} nickname
 * @param {number} hue
 * @param {number} worker
 */
export function playing(nickname, hue, worker) {
  page.entry.hidden = true
  page.me.hidden = page.hint.hidden = false
  page["me-name"].textContent = nickname
  avatar(nickname, page["me-avatar"]).style.setProperty("--hue", String(hue))
  page.worker.textContent = worker
  online(true)
  setTimeout(() => (page.hint.hidden = true), 8000)
}

/** @param {string} error */
export function left(error) {
  page.entry.hidden = false
  page.me.hidden = page.hint.hidden = page.banner.hidden = true
  delete document.documentElement.dataset.online
  entering(false)
  page["entry-error"].textContent = error
  page.worker.textContent = page.carries.textContent = page.score.textContent = "…"
}

/** @param {boolean} is */
export function online(is) {
  document.documentElement.dataset.online = String(is)
  page.banner.hidden = is
  page.status.textContent = is ? "Connected" : "Reconnecting…"
}

/**
 * @param {string | undefined} nickname
 * @param {boolean} own
 * @param {number} count
 */
export function fed(nickname, own, count) {
  page.told.textContent = `${own ? "You" : (nickname ?? "Somebody")} brought ${count === 1 ? "an ember" : `${count} embers`} home`
  clearTimeout(telling)
  telling = setTimeout(() => (page.told.textContent = TAGLINE), 5000)
}

/** @param {boolean} is */
function standing(is) {
  if (is === still) return
  still = is
  clearTimeout(telling)
  page.told.textContent = is ? "All stands still: another worker takes over the field" : TAGLINE
}

function figures() {
  standing(mine() !== null && embers.frames > 0 && performance.now() - embers.heard > STILL)
  const ranks = embers.ranks()
  const me = embers.flames.get(mine() ?? -1)
  page.warmth.style.width = `${embers.warmth}%`
  page["people-count"].textContent = page["people-open-count"].textContent = ranks.length || ""
  page.people.replaceChildren(...ranks.map(personLine))
  canvas.dataset.frames = String(embers.frames)
  if (!me) return
  page.carries.textContent = me.carries
  page.score.textContent = me.score
  canvas.dataset.x = String(Math.round(me.x))
  canvas.dataset.y = String(Math.round(me.y))
}

/** @param {{ number: number, nickname: string, hue: number, score: number }} player */
function personLine({ number, nickname, hue, score }) {
  const made = element("li", "person")
  made.dataset.nickname = nickname
  const face = avatar(nickname)
  face.style.setProperty("--hue", String(hue))
  made.append(face, element("span", "person-name", nickname))
  if (number === mine()) made.append(element("span", "muted", "(you)"))
  made.append(element("span", "person-note", String(score)))
  return made
}

// The field

/** @param {number | null} number */
export function placeOnScreen(number) {
  const flame = embers.flames.get(number ?? -1)
  if (!flame) return null
  return { x: canvas.clientWidth / 2 + (flame.x - camera.x) * scale, y: canvas.clientHeight / 2 + (flame.y - camera.y) * scale }
}

function measure() {
  canvas.width = canvas.clientWidth * devicePixelRatio
  canvas.height = canvas.clientHeight * devicePixelRatio
  scale = Math.max(canvas.clientWidth / width, canvas.clientHeight / height)
}

function paint() {
  const style = getComputedStyle(canvas)
  const names = ["field-near", "field", "field-far", "pine", "pine-snow", "stone", "stone-lit", "log", "ember-glow", "label", "flame-lightness"]
  colours = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]))
  ground = drawGround()
}

/** What never moves, drawn once: the clearing and its pines. */
function drawGround() {
  const made = document.createElement("canvas")
  made.width = width * 1.5
  made.height = height * 1.5
  const brush = /** @type {CanvasRenderingContext2D} */ (made.getContext("2d"))
  brush.scale(1.5, 1.5)
  const light = brush.createRadialGradient(hearthX, hearthY, 120, hearthX, hearthY, 950)
  light.addColorStop(0, colours.field)
  light.addColorStop(1, colours["field-far"])
  brush.fillStyle = light
  brush.fillRect(0, 0, width, height)
  let seed = 11
  const chance = () => (seed = (seed * 16807) % 2147483647) / 2147483647
  const pines = Array.from({ length: 190 }, () => ({ x: chance() * width, y: chance() * height, size: 13 + chance() * 17 }))
  pines
    .filter(({ x, y }) => Math.hypot((x - hearthX) / 1.45, y - hearthY) > 300 + 150 * chance())
    .sort((one, other) => one.y - other.y)
    .forEach(({ x, y, size }) => drawPine(brush, x, y, size))
  return made
}

/**
 * @param {CanvasRenderingContext2D} brush
 * @param {number} x
 * @param {number} y
 * @param {number} size
 */
function drawPine(brush, x, y, size) {
  for (const [level, wide] of [[0, 1], [0.75, 0.8], [1.4, 0.58]]) {
    const foot = y - level * size
    for (const [side, colour] of /** @type {[number, string][]} */ ([[-1, colours["pine-snow"]], [1, colours.pine]])) {
      brush.fillStyle = colour
      brush.beginPath()
      brush.moveTo(x, foot - size * 1.35)
      brush.quadraticCurveTo(x + side * size * wide * 0.35, foot - size * 0.4, x + side * size * wide * 0.75, foot)
      brush.quadraticCurveTo(x + side * size * wide * 0.3, foot + size * 0.14, x, foot + size * 0.1)
      brush.fill()
    }
  }
}

/**
 * @param {Place} place
 * @param {number} radius
 * @param {string} colour
 * @param {number} strength
 */
function glow({ x, y }, radius, colour, strength) {
  if (!lights.has(colour)) lights.set(colour, drawLight(colour))
  pen.globalAlpha = strength
  pen.drawImage(/** @type {HTMLCanvasElement} */ (lights.get(colour)), x - radius, y - radius, 2 * radius, 2 * radius)
  pen.globalAlpha = 1
}

/**
 * A light of a colour, drawn once: to make a gradient for each ember in each frame is much for a phone.
 *
 * @param {string} colour
 */
function drawLight(colour) {
  const made = document.createElement("canvas")
  made.width = made.height = 256
  const brush = /** @type {CanvasRenderingContext2D} */ (made.getContext("2d"))
  shine(brush, { x: 128, y: 128 }, 128, colour)
  return made
}

/**
 * @param {CanvasRenderingContext2D} brush
 * @param {Place} place
 * @param {number} radius
 * @param {string} colour
 */
function shine(brush, { x, y }, radius, colour) {
  const light = brush.createRadialGradient(x, y, 0, x, y, radius)
  light.addColorStop(0, colour)
  light.addColorStop(0.35, faint(colour, 0.42))
  light.addColorStop(0.7, faint(colour, 0.1))
  light.addColorStop(1, faint(colour, 0))
  brush.fillStyle = light
  brush.fillRect(x - radius, y - radius, 2 * radius, 2 * radius)
}

/**
 * The same colour, transparent. (On the way to "transparent" all colours are grey.)
 *
 * @param {string} colour
 * @param {number} alpha
 */
function faint(colour, alpha) {
  return colour.startsWith("#")
    ? colour + Math.round(alpha * 255).toString(16).padStart(2, "0")
    : colour.replace(")", ` / ${alpha})`)
}

/**
 * A tongue of fire that stands on a place.
 *
 * @param {Place} foot
 * @param {number} size
 * @param {number} lean
 * @param {string} colour
 */
function tongue({ x, y }, size, lean, colour) {
  const [tipX, tipY] = [x - lean * size * 0.9, y - size * 1.75]
  pen.fillStyle = colour
  pen.beginPath()
  pen.moveTo(tipX, tipY)
  pen.bezierCurveTo(tipX + size * 0.25, tipY + size * 0.55, x + size * 0.95, y - size * 0.75, x + size * 0.85, y)
  pen.bezierCurveTo(x + size * 0.8, y + size * 0.62, x + size * 0.35, y + size * 0.85, x, y + size * 0.85)
  pen.bezierCurveTo(x - size * 0.35, y + size * 0.85, x - size * 0.8, y + size * 0.62, x - size * 0.85, y)
  pen.bezierCurveTo(x - size * 0.9, y - size * 0.6, x - size * 0.35, y - size * 0.7, tipX, tipY)
  pen.fill()
}

/** @param {number} now */
function drawHearth(now) {
  const share = embers.warmth / 100
  const flicker = calm.matches ? 1 : 1 + 0.05 * Math.sin(now / 130) + 0.04 * Math.sin(now / 71)
  pen.globalAlpha = 0.35 + 0.65 * share // these two are so large that steps would be seen in what is drawn once
  shine(pen, hearth, (420 + 700 * share) * (0.98 + 0.02 * flicker), colours["field-near"])
  pen.globalAlpha = 0.4 + 0.35 * share
  shine(pen, hearth, (140 + 220 * share) * flicker, colours["ember-glow"])
  pen.globalAlpha = 1
  for (let index = 0; index < 14; index += 1) {
    const angle = (index / 14) * 2 * Math.PI
    const [x, y] = [hearthX + Math.cos(angle) * 62, hearthY + 14 + Math.sin(angle) * 34]
    for (const [colour, lift] of /** @type {[string, number][]} */ ([[colours.stone, 0], [colours["stone-lit"], 2.5]])) {
      pen.fillStyle = colour
      pen.beginPath()
      pen.ellipse(x, y - lift, 13 + (index % 3) - lift, 10 + (index % 2) - lift, 0, 0, 7)
      pen.fill()
    }
  }
  pen.lineCap = "round"
  pen.lineWidth = 13
  pen.strokeStyle = colours.log
  for (const side of [-1, 1]) {
    pen.beginPath()
    pen.moveTo(hearthX - side * 32, hearthY + 24)
    pen.lineTo(hearthX + side * 28, hearthY + 4)
    pen.stroke()
  }
  const size = (16 + 30 * share) * flicker
  const sway = calm.matches ? 0 : Math.sin(now / 310) * 0.12
  const foot = { x: hearthX, y: hearthY - size * 0.45 + 8 }
  tongue({ x: foot.x - size * 0.55, y: foot.y + size * 0.25 }, size * 0.55, sway - 0.1, "#d9501f")
  tongue({ x: foot.x + size * 0.55, y: foot.y + size * 0.25 }, size * 0.6, sway + 0.1, "#d9501f")
  tongue(foot, size, sway, "#e8622a")
  tongue({ x: foot.x, y: foot.y + size * 0.22 }, size * 0.66, sway, "#f59a3c")
  tongue({ x: foot.x, y: foot.y + size * 0.42 }, size * 0.36, sway, "#ffe2a0")
  if (!calm.matches && Math.random() < 0.1 + 0.2 * share) {
    burst({ x: hearthX + (Math.random() - 0.5) * 30, y: hearthY - 20 }, 1, 1600)
  }
}

/**
 * @param {Place} place
 * @param {number} size
 */
function drawEmber(place, size) {
  glow(place, size * 5, colours["ember-glow"], 0.5)
  pen.fillStyle = "#f2742f"
  disc(place, size)
  pen.fillStyle = "#ffd28a"
  disc({ x: place.x - size * 0.15, y: place.y - size * 0.2 }, size * 0.5)
}

/**
 * @param {Place} place
 * @param {number} radius
 */
function disc({ x, y }, radius) {
  pen.beginPath()
  pen.arc(x, y, radius, 0, 7)
  pen.fill()
}

/** @param {Flame} flame */
const hueOf = (flame) => embers.players.get(flame.number)?.hue ?? 40

/** @param {Flame} flame */
const flameColour = (flame) => `oklch(${colours["flame-lightness"]} 0.17 ${hueOf(flame)})`

/**
 * @param {Flame} flame
 * @param {number} now
 */
function drawFlame(flame, now) {
  const hue = hueOf(flame)
  const lightness = Number(colours["flame-lightness"])
  const phase = flame.number % 1000
  const flicker = calm.matches ? 1 : 1 + 0.06 * Math.sin(now / 90 + phase) + 0.04 * Math.sin(now / 47 + phase)
  const size = 21 * flicker
  const rise = calm.matches ? 0 : Math.sin(now / 260 + phase) * 2.5
  const foot = { x: flame.x, y: flame.y + rise }
  for (let index = flame.carries; index > 0; index -= 1) {
    drawEmber(flame.tail[Math.min(index * SPACING + 2, flame.tail.length - 1)] ?? flame, 6.5)
  }
  tongue(foot, size, flame.lean, flameColour(flame))
  tongue({ x: foot.x, y: foot.y + size * 0.16 }, size * 0.7, flame.lean, `oklch(${lightness + 0.12} 0.13 ${hue + 12})`)
  tongue({ x: foot.x, y: foot.y + size * 0.34 }, size * 0.42, flame.lean, `oklch(0.96 0.05 ${hue + 20})`)
  const blinks = !calm.matches && (now + phase * 37) % 4100 < 120
  pen.fillStyle = "#2a1a12"
  for (const side of [-1, 1]) {
    pen.beginPath()
    const [x, y] = [foot.x + side * 7 + flame.look.x * 5, foot.y + flame.look.y * 4]
    pen.ellipse(x, y, 2.9, blinks ? 0.6 : 4.2, 0, 0, 7)
    pen.fill()
  }
  name(embers.players.get(flame.number)?.nickname ?? "", { x: flame.x, y: flame.y + 44 }, flame.number === mine())
}

/**
 * @param {string} text
 * @param {Place} place
 * @param {boolean} strong
 */
function name(text, { x, y }, strong) {
  pen.font = `${strong ? 700 : 550} ${Math.max(16, 12.5 / scale)}px system-ui, sans-serif`
  pen.textAlign = "center"
  pen.lineJoin = "round"
  pen.lineWidth = 5
  pen.strokeStyle = colours.field
  pen.fillStyle = colours.label
  pen.strokeText(text, x, y)
  pen.fillText(text, x, y)
}

/**
 * @param {Place} place
 * @param {number} count
 * @param {number} lasts
 */
function burst(place, count, lasts) {
  for (let index = 0; index < count; index += 1) {
    const [dx, dy] = [(Math.random() - 0.5) * 90, -30 - Math.random() * 90]
    sparks.push({ ...place, dx, dy, age: 0, lasts: lasts * (0.5 + Math.random() / 2), size: 1.5 + Math.random() * 2.5 })
  }
}

/** @param {number} passed */
function drawSparks(passed) {
  sparks = sparks.filter((spark) => (spark.age += passed) < spark.lasts)
  for (const spark of sparks) {
    spark.x += ((spark.dx + Math.sin(spark.age / 200 + spark.size * 9) * 18) * passed) / 1000
    spark.y += (spark.dy * passed) / 1000
    pen.globalAlpha = 1 - spark.age / spark.lasts
    pen.fillStyle = colours["ember-glow"]
    if (spark.text) {
      pen.font = `750 ${spark.size}px system-ui, sans-serif`
      pen.textAlign = "center"
      pen.lineWidth = 6
      pen.strokeStyle = colours.field
      pen.strokeText(spark.text, spark.x, spark.y)
      pen.fillText(spark.text, spark.x, spark.y)
    } else disc(spark, spark.size)
  }
  pen.globalAlpha = 1
}

/** @param {number} passed */
function follow(passed) {
  const me = embers.flames.get(mine() ?? -1) ?? hearth
  const share = 1 - Math.exp(-passed / 180)
  const [halfX, halfY] = [canvas.clientWidth / scale / 2, canvas.clientHeight / scale / 2]
  camera.x = within(camera.x + (me.x - camera.x) * share, halfX, width - halfX)
  camera.y = within(camera.y + (me.y - camera.y) * share, halfY, height - halfY)
  return { halfX, halfY }
}

/**
 * @param {number} value
 * @param {number} least
 * @param {number} most
 */
const within = (value, least, most) => Math.max(least, Math.min(most, value))

/**
 * The way home, where the hearth is out of sight.
 *
 * @param {{ halfX: number, halfY: number }} half
 */
function drawWayHome({ halfX, halfY }) {
  const [x, y] = [hearthX - camera.x, hearthY - camera.y]
  if (Math.abs(x) < halfX && Math.abs(y) < halfY) return
  const place = { x: camera.x + within(x, 34 - halfX, halfX - 34), y: camera.y + within(y, 34 - halfY, halfY - 34) }
  glow(place, 95, colours["ember-glow"], 0.55)
  pen.save()
  pen.translate(place.x, place.y)
  pen.rotate(Math.atan2(hearthY - place.y, hearthX - place.x))
  pen.fillStyle = colours["ember-glow"]
  pen.beginPath()
  pen.moveTo(20, 0)
  pen.lineTo(-8, -14)
  pen.quadraticCurveTo(-2, 0, -8, 14)
  pen.fill()
  pen.restore()
}

/** @param {number} now */
function draw(now) {
  const passed = Math.min(100, now - drawnAt)
  drawnAt = now
  embers.glide(now)
  const half = follow(passed)
  const zoom = scale * devicePixelRatio
  pen.setTransform(zoom, 0, 0, zoom, canvas.width / 2 - camera.x * zoom, canvas.height / 2 - camera.y * zoom)
  pen.drawImage(ground, 0, 0, width, height)
  const flames = [...embers.flames.values()].sort((one, other) => one.y - other.y)
  for (const flame of flames) glow(flame, 140, flameColour(flame), 0.5)
  drawHearth(now)
  for (const ember of embers.embers) {
    const grown = within((now - ember.since) / 400, 0, 1)
    drawEmber(ember, (7.5 + (calm.matches ? 0 : Math.sin(now / 300 + ember.x) * 0.8)) * grown)
  }
  flames.forEach((flame) => drawFlame(flame, now))
  drawSparks(passed)
  drawWayHome(half)
  requestAnimationFrame(draw)
}

/**
 * @param {Embers} heard
 * @param {() => number | null} own
 */
export function start(heard, own) {
  embers = heard
  mine = own
  embers.onChange = ({ kind, place, count }) => {
    burst(kind === "fed" ? hearth : place, kind === "fed" ? 10 + 6 * count : 6, kind === "fed" ? 1500 : 600)
    if (kind === "fed") sparks.push({ x: hearthX, y: hearthY - 105, dx: 0, dy: -40, age: 0, lasts: 1600, size: 34, text: `+${count}` })
  }
  new ResizeObserver(measure).observe(canvas)
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint)
  measure()
  paint()
  setInterval(figures, 200)
  requestAnimationFrame(draw)
}
