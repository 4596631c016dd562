// Random stories: what happens is drawn by lot, and the same seed draws the same lots.

import { Crowd } from "./crowd.mjs"
import { equal } from "./stage.mjs"

const KEYS = ["ann", "bob", "cleo"]

/** Numbers from 0 up to 1, the same for the same seed (mulberry32). */
function lots(seed) {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
}

/** What a tab may do at random; one that has left comes back. */
const DEEDS = {
  update: (tab, fate) => fate.held(tab, (key) => tab.update(key, fate.meta())),
  twice: (tab, fate) => fate.held(tab, (key) => Promise.all([tab.update(key, fate.meta()), tab.update(key, fate.meta())])),
  track: (tab, fate) => {
    const key = fate.one([tab.key, `guest of ${tab.key}`])
    return tab.metas.has(key) ? tab.untrack(key) : tab.track(key, fate.meta())
  },
  crash: (tab) => tab.crash(),
  cut: (tab) => tab.cut(),
  leave: (tab) => tab.leave(),
  vanish: (tab) => tab.vanish(),
}

class Fate {
  constructor(stage) {
    this.draw = lots(stage.seed)
    this.numbers = 0
    /** A browser polls one server over six connections at most. */
    this.most = stage.polls ? 3 : 6
    this.crowd = new Crowd(stage, this.one(["crowd", "crew"]))
  }

  one(choices) {
    return choices[Math.floor(this.draw() * choices.length)]
  }

  meta() {
    return { n: ++this.numbers }
  }

  held(tab, act) {
    return tab.metas.size ? act(this.one([...tab.metas.keys()])) : tab.track(tab.key, this.meta())
  }

  /** One step: one to three things at the same time, each to another tab. */
  step() {
    const { crowd } = this
    const robot = this.one(KEYS)
    const chance = this.draw()
    if (chance < 0.05) return [`kick ${robot}`, () => crowd.kick(robot)]
    if (chance < 0.1) return [`put ${robot}`, () => crowd.put(robot, this.meta())]
    if (chance < 0.15) return [`remove ${robot}`, () => crowd.remove(robot)]
    const deeds = this.several().map((tab) => this.deed(tab))
    return [deeds.map(([what]) => what).join(" and "), () => Promise.all(deeds.map(([, act]) => act()))]
  }

  /** Tabs that are there, and undefined for one that is not yet. */
  several() {
    const tabs = [...this.crowd.tabs].filter((tab) => tab.key !== undefined)
    const chosen = new Set()
    for (let left = 1 + Math.floor(this.draw() * 3); left > 0; left -= 1) {
      const isNew = tabs.length < this.most && this.draw() < 1.5 / (1 + tabs.length)
      chosen.add(isNew ? undefined : this.one(tabs))
    }
    return [...chosen]
  }

  deed(tab) {
    if (!tab) {
      const [key, meta] = [this.one(KEYS), this.meta()]
      return [`enter ${key}`, () => this.crowd.enter(key, meta)]
    }
    if (tab.channel.state === "closed") return [`join ${tab.key}`, () => tab.join()]
    const what = this.one(Object.keys(DEEDS))
    return [`${what} ${tab.key}`, () => DEEDS[what](tab, this)]
  }
}

export async function presence_by_chance(stage) {
  const fate = new Fate(stage)
  const { crowd } = fate
  const steps = 30 + (stage.polls ? 0 : Math.floor(fate.draw() * 31)) // polls take their time
  let [step, what] = [0, "nothing"]
  try {
    await crowd.enter() // somebody looks on all the time
    for (step = 1; step <= steps; step += 1) {
      const [name, act] = fate.step()
      stage.log(`step ${step} of seed ${stage.seed}:`, (what = name))
      await act()
      await crowd.agree(name)
    }
    await crowd.agreeInTheEnd("the last step")
    for (const tab of crowd.members()) if (tab.key !== undefined) await tab.leave()
    await crowd.agree("the end")
    equal(Object.keys(await crowd.list()).sort(), [...crowd.outside.keys()].sort(), "who is left")
  } catch (error) {
    throw new Error(`seed ${stage.seed}, step ${step} of ${steps} (${what}): ${error.stack}`)
  }
}
