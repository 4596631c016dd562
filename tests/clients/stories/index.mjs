// All the stories, and how one is played.

import * as chance from "./chance.mjs"
import * as joining from "./joining.mjs"
import * as lasting from "./lasting.mjs"
import * as polling from "./polling.mjs"
import * as present from "./present.mjs"
import * as speaking from "./speaking.mjs"
import { Stage } from "./stage.mjs"

export const stories = { ...joining, ...speaking, ...lasting, ...polling, ...present, ...chance }

/** Plays one story; the result says how it ended, and what happened if it ended badly. */
export async function play(name, surroundings) {
  const lines = []
  const began = performance.now()
  const log = (...line) => lines.push([`${Math.round(performance.now() - began)} ms`, ...line])
  const stage = new Stage({ ...surroundings, log })
  try {
    if (!(name in stories)) throw new Error(`there is no story ${name}`)
    await stories[name](stage)
    return { story: name, ok: true, ms: Math.round(performance.now() - began) }
  } catch (error) {
    return { story: name, ok: false, error: String(error?.stack ?? error), log: lines.slice(-60).map((line) => line.map(readable).join(" ")) }
  } finally {
    stage.clear()
  }
}

function readable(value) {
  if (typeof value === "string") return value
  if (value?.code !== undefined || value?.message !== undefined) return `${value.code} ${value.message ?? value.reason}`
  return (JSON.stringify(value) ?? "").slice(0, 200)
}
