/* The map in the browser: what happens. fleet.js keeps what was heard, map-view.js draws it.

   For tests, these names stay as they are:
   [data-line="4"]        a line's button: aria-pressed while it is shown; .line-count inside it is how many trams
   #known #moving         how many trams are known, and how many of them move
   #heard                 when the last message came
   #watchers              how many people watch; #people lists them, as in the chat
   #worker                the process that serves this page's socket
   #trams                 the canvas on which they are drawn
   #banner                [hidden] while connected; html[data-online] is "true" or "false" */

import { Presence, Socket } from "phoenix"

import { Fleet } from "./fleet.js"
import * as view from "./map-view.js"

const nickname = localStorage.getItem("hearth.nickname") ?? `Guest ${Math.ceil(Math.random() * 999)}`
const fleet = new Fleet()
const channels = new Map()
let heard = null // when the last message came

const socket = new Socket("/socket", { params: { nickname }, longPollFallbackMs: 2500 })
socket.onOpen(() => {
  fleet.clear() // a server that was started again may have other trams, and another clock
  view.online(true)
})
socket.onClose(() => view.online(false))
socket.connect()

// Who watches

const map = socket.channel("map")
const presence = new Presence(map)
presence.onSync(() => view.people(presence.list((name, { metas }) => ({ name, tabs: metas.length })), nickname))
map.join().receive("ok", ({ worker }) => view.servedBy(worker))

// The lines: each is a topic, so that only those come here that are shown

function show(line) {
  const channel = socket.channel(`map:${line}`)
  channel.on("positions", (positions) => {
    heard = performance.now()
    fleet.hear(line, positions, heard)
  })
  channel.join()
  channels.set(line, channel)
}

function hide(line) {
  channels.get(line).leave()
  channels.delete(line)
  fleet.forget(line)
}

function toggle(line) {
  channels.has(line) ? hide(line) : show(line)
  view.lines(channels, fleet)
}

view.allLines().forEach(show)
view.onToggle(toggle)
view.start(fleet)
setInterval(() => {
  view.lines(channels, fleet)
  view.figures(fleet, heard && performance.now() - heard)
}, 250)
