// @ts-check
/* The game in the browser: what happens. embers.js keeps what was heard, game-view.js draws it, steering.js asks where to.

   The types of what is sent and heard are those that the channel declares: `flask phoenix types` has written them.

   For tests, these names stay as they are:
   #entry #nickname [name=hue] #enter #entry-error   before one plays; a reload goes on at once, #leave forgets
   #people                li.person[data-nickname], the best first, with .person-note: what each has brought home
   #carries #score        what is carried now, and what was brought home
   #told                  what happened last
   #worker                the process that serves this page's socket
   #field                 the canvas: data-frames counts the frames that were heard, data-x and data-y tell where we are
   #banner                [hidden] while connected; html[data-online] is "true" or "false" */

import { Presence, Socket } from "phoenix"

import { wander } from "./autopilot.js"
import { Embers } from "./embers.js"
import * as view from "./game-view.js"
import { watchSteering } from "./steering.js"

/** @typedef {import("../phoenix-types").UserSocket} UserSocket */
/** @typedef {import("../phoenix-types").TypedChannel<import("../phoenix-types").GameChannelContract>} Game */
/** @typedef {import("../phoenix-types").Steer} Steer */

const NICKNAME = "hearth.nickname"
const HUE = "hearth.hue"
const STEERING = 50 // milliseconds between two messages that steer, at least
const LETS_GO = 3000 // until the preview plays by itself again
const REPEAT = 500 // until it is told again, to whoever runs the field by then

const preview = document.documentElement.classList.contains("preview") // on the start page: it plays by itself
const embers = new Embers()
/** @type {number | null} */
let mine = null // our number on the field
/** @type {Game | null} */
let game = null
/** @type {() => void} */
let leave = () => {}

/**
 * @param {string} nickname
 * @param {number} hue
 */
function play(nickname, hue) {
  view.entering(true)
  /** @type {UserSocket} */
  const socket = new Socket("/socket", { params: { nickname }, longPollFallbackMs: 2500 })
  const newcomer = { hue, token: "" } // sent again when we come back: with the token we are the same flame
  const channel = socket.channel("game", newcomer)
  leave = () => {
    socket.disconnect()
    game = mine = null
    embers.clear()
  }
  socket.onClose(() => {
    mine = null
    if (game) view.online(false)
    else refused("We could not connect: the nickname was refused, or the server is away.")
  })
  channel.on("frame", (frame) => embers.hear(frame, performance.now()))
  channel.on("fed", ({ number, embers: count }) => view.fed(embers.players.get(number)?.nickname, number === mine, count))
  const presence = new Presence(channel)
  presence.onSync(() => embers.meet(presence.list((number, { metas }) => ({ ...metas[0], number: Number(number) }))))
  channel
    .join()
    .receive("ok", ({ number, worker, token }) => {
      mine = number
      newcomer.token = token
      game = channel
      if (!preview) {
        localStorage.setItem(NICKNAME, nickname)
        localStorage.setItem(HUE, String(hue))
      }
      view.playing(nickname, hue, worker)
    })
    .receive("error", ({ reason }) => refused(reason === "full" ? "The clearing is full: try again soon." : String(reason)))
  socket.connect()
}

/** @param {string} [error] */
function refused(error = "") {
  const end = leave
  leave = () => {}
  end()
  view.left(error)
}

view.onEnter(play)
view.onLeave(() => {
  localStorage.removeItem(HUE)
  refused()
})
view.start(embers, () => mine)

/** @type {Steer} */
let told = { x: 0, y: 0 }
let toldAt = 0
const steered = watchSteering(view.canvas, () => view.placeOnScreen(mine))
let steeredAt = -Infinity

function aim() {
  const wanted = steered()
  if (wanted.x || wanted.y) steeredAt = performance.now()
  if (!preview || mine === null || performance.now() - steeredAt < LETS_GO) return wanted
  return wander(embers, mine, view.hearth)
}

setInterval(() => {
  if (!game || mine === null) return
  const [wanted, now] = [aim(), performance.now()]
  const [same, still] = [wanted.x === told.x && wanted.y === told.y, !wanted.x && !wanted.y]
  if (same && (still || now - toldAt < REPEAT)) return
  told = wanted
  toldAt = now
  game.push("steer", told)
}, STEERING)

const [nickname, hue] = [NICKNAME, HUE].map((key) => localStorage.getItem(key))
view.remember(nickname, hue)
if (preview) play("Ada", 30 + 45 * Math.floor(Math.random() * 8))
else if (nickname && hue) play(nickname, Number(hue))
