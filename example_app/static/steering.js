// @ts-check
// Where the player wants to go: by keys, or to where a pointer or a finger is held.

/** @typedef {import("../phoenix-types").Steer} Steer */

/** @type {Record<string, [number, number]>} */
const KEYS = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
  KeyA: [-1, 0],
  KeyD: [1, 0],
  KeyW: [0, -1],
  KeyS: [0, 1],
}
const FULL_SPEED_AT = 90 // pixels between us and the pointer
const CLOSE_ENOUGH = 8

/**
 * Returns a function that tells where to go now.
 *
 * @param {HTMLElement} field
 * @param {() => { x: number, y: number } | null} here where we are, in pixels of the field
 * @returns {() => Steer}
 */
export function watchSteering(field, here) {
  const pressed = new Set()
  /** @type {{ x: number, y: number } | null} */
  let held = null

  addEventListener("keydown", (event) => {
    if (!(event.code in KEYS) || event.target instanceof HTMLInputElement || event.ctrlKey || event.metaKey) return
    pressed.add(event.code)
    event.preventDefault()
  })
  addEventListener("keyup", (event) => pressed.delete(event.code))
  addEventListener("blur", () => {
    pressed.clear()
    held = null
  })
  field.addEventListener("pointerdown", (event) => {
    field.setPointerCapture(event.pointerId)
    held = { x: event.offsetX, y: event.offsetY }
  })
  field.addEventListener("pointermove", (event) => held && (held = { x: event.offsetX, y: event.offsetY }))
  for (const end of ["pointerup", "pointercancel"]) field.addEventListener(end, () => (held = null))

  return () => {
    let [x, y] = [0, 0]
    const from = held && here()
    if (held && from) [x, y] = towards(held.x - from.x, held.y - from.y)
    for (const code of pressed) {
      x += KEYS[code][0]
      y += KEYS[code][1]
    }
    return { x: share(x), y: share(y) }
  }
}

/**
 * @param {number} x
 * @param {number} y
 */
function towards(x, y) {
  const far = Math.hypot(x, y)
  return far < CLOSE_ENOUGH ? [0, 0] : [x, y].map((way) => way / Math.max(far, FULL_SPEED_AT))
}

/** @param {number} value */
const share = (value) => Math.round(Math.max(-1, Math.min(1, value)) * 100) / 100
