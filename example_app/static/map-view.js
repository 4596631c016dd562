// The map's page: draws trams on a canvas, over the town, which is an image that came with the page.

import "./drawer.js"
import { avatar, element } from "./elements.js"

const page = Object.fromEntries([...document.querySelectorAll("[id]")].map((found) => [found.id, found]))
const buttons = new Map([...document.querySelectorAll("[data-line]")].map((each) => [Number(each.dataset.line), each]))
const { width, height } = page.town.viewBox.baseVal
const pen = page.trams.getContext("2d")
const body = new Path2D()
const front = new Path2D()
const colours = new Map() // of the lines
let rim // between a tram and what lies under it
let scale = 1 // pixels of the canvas for one unit of the map
let [left, top] = [0, 0]

body.roundRect(-13, -5, 26, 10, 4)
front.roundRect(6.5, -2.8, 3.5, 5.6, 1.2)

// The lines

export const allLines = () => [...buttons.keys()]

export function onToggle(toggle) {
  for (const [line, button] of buttons) button.addEventListener("click", () => toggle(line))
}

export function lines(shown, fleet) {
  for (const [line, button] of buttons) {
    button.setAttribute("aria-pressed", shown.has(line))
    button.querySelector(".line-count").textContent = shown.has(line) ? fleet.count(line) : ""
    for (const part of page.town.querySelectorAll(`[data-of="${line}"]`)) part.classList.toggle("faint", !shown.has(line))
  }
}

// What is told in figures

export function figures(fleet, age) {
  const stale = age > 3000
  page.known.textContent = fleet.trams.size
  page.moving.textContent = stale ? 0 : fleet.moving()
  page.heard.textContent = age === null ? "not yet" : age < 1000 ? "just now" : `${Math.round(age / 1000)} s ago`
  page.map.classList.toggle("stale", stale)
}

export function people(people, me) {
  page.watchers.textContent = page["people-count"].textContent = page["people-open-count"].textContent = people.length
  const sorted = people.sort((a, b) => (b.name === me) - (a.name === me) || a.name.localeCompare(b.name))
  page.people.replaceChildren(...sorted.map((person) => personLine(person, me)))
}

function personLine({ name, tabs }, me) {
  const made = element("li", "person")
  made.dataset.nickname = name
  made.append(avatar(name), element("span", "person-name", name))
  if (name === me) made.append(element("span", "muted", "(you)"))
  made.append(element("span", "person-note", tabs > 1 ? `${tabs} tabs` : ""))
  return made
}

export function servedBy(worker) {
  page.worker.textContent = worker
}

export function online(is) {
  document.documentElement.dataset.online = is
  page.banner.hidden = is
}

// The trams

function measure() {
  const { clientWidth, clientHeight } = page.trams
  page.trams.width = clientWidth * devicePixelRatio
  page.trams.height = clientHeight * devicePixelRatio
  // As the image fits itself in: all of it, in the middle.
  scale = Math.min(page.trams.width / width, page.trams.height / height)
  left = (page.trams.width - width * scale) / 2
  top = (page.trams.height - height * scale) / 2
}

function paint() {
  for (const [line, button] of buttons) {
    colours.set(line, getComputedStyle(button.querySelector(".line-number")).backgroundColor)
  }
  rim = getComputedStyle(page.trams).color
}

function draw({ line, x, y, heading }) {
  const [sin, cos] = [Math.sin, Math.cos].map((of) => of((heading * Math.PI) / 180) * scale)
  pen.setTransform(cos, sin, -sin, cos, left + x * scale, top + y * scale)
  pen.fillStyle = colours.get(line)
  pen.fill(body)
  pen.stroke(body)
  pen.fillStyle = rim
  pen.fill(front)
}

export function start(fleet) {
  const frame = (now) => {
    pen.resetTransform()
    pen.clearRect(0, 0, page.trams.width, page.trams.height)
    pen.strokeStyle = rim
    pen.lineWidth = 1.6
    fleet.places(now).forEach(draw)
    requestAnimationFrame(frame)
  }
  new ResizeObserver(measure).observe(page.trams)
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paint)
  measure()
  paint()
  page.map.scrollLeft = (page.map.scrollWidth - page.map.clientWidth) / 2
  requestAnimationFrame(frame)
}
