// @ts-check
// Where a flame goes by itself, in the preview on the start page: to the nearest ember, and home with all it can carry.

/**
 * @typedef {import("../phoenix-types").Steer} Steer
 * @typedef {import("./embers.js").Embers} Embers
 * @typedef {import("./embers.js").Place} Place
 */

const MOST = 5 // as field.py has it

/**
 * Tells where to go now.
 *
 * @param {Embers} embers
 * @param {number} mine our number on the field
 * @param {Place} hearth
 * @returns {Steer}
 */
export function wander(embers, mine, hearth) {
  const me = embers.flames.get(mine)
  if (!me) return { x: 0, y: 0 }
  const far = (/** @type {Place} */ place) => Math.hypot(place.x - me.x, place.y - me.y)
  const nearest = embers.embers.reduce((best, ember) => (far(ember) < far(best) ? ember : best), embers.embers[0])
  const goal = me.carries < MOST && nearest ? nearest : hearth
  const [x, y] = [goal.x - me.x, goal.y - me.y].map((way) => Math.round((way / Math.max(far(goal), 1)) * 10) / 10)
  return { x, y }
}
