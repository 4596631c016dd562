/* The start page in the browser: a chat between two people, each with a connection of their own. The map and the game on
   it are their own pages, with ?preview.

   For tests, these names stay as they are:
   .talker[data-nickname]    one of the two: .messages shows li.message[data-id] (.mine too) with .bubble; the input "body"
                             and its button write; .worker names the process that serves this connection */

import { Socket } from "phoenix"

import { avatar, element } from "./elements.js"

const SHOWN = 12
const PAUSE = 1600 // milliseconds between two messages of the dialogue
const DIALOGUE = [
  ["Ada", "Good morning, Grace!"],
  ["Grace", "Morning, Ada. Are we on the same worker?"],
  ["Ada", "It does not matter: what I say reaches you on any of them."],
  ["Grace", "And whoever comes later is told all of it."],
]

const rooms = new Map(
  [...document.querySelectorAll(".talker")].map((panel) => [panel.dataset.nickname, talk(panel, panel.dataset.nickname)]),
)

function talk(panel, nickname) {
  const [list, worker] = [panel.querySelector(".messages"), panel.querySelector(".worker")]
  panel.querySelector(".who").prepend(avatar(nickname))
  const socket = new Socket("/socket", { params: { nickname }, longPollFallbackMs: 2500 })
  socket.onClose(() => (worker.textContent = "Reconnecting…"))
  socket.connect()

  const room = socket.channel("room:lobby")
  room.on("history", ({ messages }) => {
    list.replaceChildren(...messages.slice(-SHOWN).map((message) => line(message, nickname)))
    list.scrollTop = list.scrollHeight
    if (!messages.length && nickname === DIALOGUE[0][0]) begin()
  })
  room.on("new_msg", (message) => {
    list.append(line(message, nickname))
    if (list.children.length > SHOWN) list.firstElementChild.remove()
    list.scrollTo({ top: list.scrollHeight, behavior: "smooth" })
  })
  room.join().receive("ok", (reply) => (worker.textContent = `Worker ${reply.worker}`))

  panel.addEventListener("submit", (event) => {
    event.preventDefault()
    const body = panel.elements.body.value.trim()
    if (body) room.push("new_msg", { body }).receive("ok", () => (panel.elements.body.value = ""))
  })
  return room
}

function line({ id, nickname, body }, me) {
  const made = element("li", nickname === me ? "message fresh mine" : "message fresh")
  made.dataset.id = id
  if (nickname !== me && rooms.size && !rooms.has(nickname)) made.append(element("span", "name muted", nickname))
  made.append(element("p", "bubble", body))
  return made
}

// Where nobody has said anything yet, the two begin.
function begin() {
  DIALOGUE.forEach(([nickname, body], index) => {
    setTimeout(() => rooms.get(nickname).push("new_msg", { body }), PAUSE * (index + 1))
  })
}
