// Numbers as they are read, and elements as they are made and kept.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 })

/** A count: 7, 1,240, 12.4k, 3.1M. */
export function count(value) {
  if (value == null) return "–"
  if (value < 10_000) return value % 1 && value < 100 ? value.toFixed(value < 10 ? 1 : 0).replace(/\.0$/, "") : whole.format(value)
  for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (value >= size) return `${(value / size).toFixed(value / size < 100 ? 1 : 0).replace(/\.0$/, "")}${unit}`
  }
  return whole.format(value)
}

/** Bytes: 0 B, 3.4 kB, 1.2 MB. */
export function bytes(value) {
  if (value == null) return "–"
  if (value < 1000) return `${whole.format(value)} B`
  const units = ["kB", "MB", "GB", "TB"]
  let unit = -1
  while (value >= 999.5 && unit < units.length - 1) { value /= 1000; unit += 1 }
  return `${value.toFixed(value < 10 ? 1 : 0).replace(/\.0$/, "")} ${units[unit]}`
}

/** A time: 40 µs, 1.2 ms, 240 ms, 1.4 s. */
export function span(seconds) {
  if (seconds == null) return "–"
  if (seconds === 0) return "0 ms"
  if (seconds < 0.001) return `${Math.max(1, Math.round(seconds * 1e6))} µs`
  if (seconds < 1) return `${(seconds * 1e3).toFixed(seconds < 0.01 ? 1 : 0)} ms`
  return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`
}

/** How long something has lasted: 12 s, 4 min, 3 h, 2 d. */
export function age(seconds) {
  for (const [size, unit] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (seconds >= size) return `${Math.floor(seconds / size)} ${unit}`
  }
  return `${Math.max(0, Math.round(seconds))} s`
}

/** The time of day. */
export function clock(at) {
  return new Date(at * 1000).toLocaleTimeString("en-GB")
}

/** An element; text goes in as text, never as HTML. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") element.className = value
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value)
    else if (value != null && value !== false) element.setAttribute(name, value === true ? "" : value)
  }
  element.append(...children.filter((child) => child != null))
  return element
}

/** An element of SVG. */
export function draw(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag)
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value)
  element.append(...children)
  return element
}

/** Shows a text, and touches the page only where it has changed. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text
}

/**
 * Keeps an element for each item, in their order: one that stays is changed and not made anew, so that focus and
 * selection outlive the next second.
 */
export function keep(parent, items, keyOf, create, update) {
  parent.kept ??= new Map()
  const kept = parent.kept
  const keys = new Set(items.map(keyOf))
  for (const [key, element] of kept) {
    if (!keys.has(key)) { element.remove(); kept.delete(key) }
  }
  items.forEach((item, index) => {
    const key = keyOf(item)
    let element = kept.get(key)
    if (!element) kept.set(key, (element = create(item)))
    update?.(element, item)
    if (parent.children[index] !== element) parent.insertBefore(element, parent.children[index] ?? null)
  })
}
