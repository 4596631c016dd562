/* The chat in the browser: what happens. room.js keeps what is known, view.js draws it.

   For tests, these names stay as they are:
   #nickname #enter #entry-error     the entrance; #entrance and #chat carry [hidden] in turn; #chat is shown once the
                                     lobby was joined. A reload enters at once, as the nickname is remembered; #leave
                                     forgets it
   [data-room="lobby"]               a room's button: .unread inside it is the count ([hidden] at none),
                                     aria-current="true" on the room shown, data-locked while its code is wanted. On a
                                     phone #menu opens the list
   #room-title                       the room shown
   #messages                         its lines: li.message[data-id][data-nickname] (.mine too) with .bubble; li.system
   #composer #body #send             writing: Enter sends; #notice says why a message was not taken
   #typing                           "Ada is typing", or empty
   #unlock #code #unlock-enter       instead of #composer while a join is refused; data-reason="locked" or "wrong code"
   #banner                           [hidden] while connected; html[data-online] is "true" or "false"
   #announcement #announcement-text  the last announcement; #announcement-close hides it
   #announce-open #announce-text #announce-send   making one */

import { Socket } from "phoenix"

import { Room } from "./room.js"
import * as view from "./view.js"

const NICKNAME = "hearth.nickname"
const TYPING_EVERY = 2000

const rooms = new Map(
  view.roomButtons().map(({ dataset }) => [dataset.room, new Room(dataset.room, "locked" in dataset)]),
)
const lobby = rooms.get("lobby")
let current = lobby
let nickname = null
let socket = null
let toldTyping = 0

// Coming and going

function enter(name) {
  nickname = name
  view.entering(true)
  // Where no WebSocket opens and answers within 2.5 s, it polls.
  const mine = new Socket("/socket", { params: () => ({ nickname }), longPollFallbackMs: 2500 })
  socket = mine
  mine.onClose(() => {
    if (socket !== mine) return
    if (view.inside()) view.online(false)
    // A browser does not tell a refusal from a server that is away.
    else leave("We could not connect: the nickname was refused, or the server is away.")
  })
  mine.connect()
  rooms.forEach((room) => room.locked || join(room))
}

function arrived() {
  view.online(true)
  if (view.inside()) return
  localStorage.setItem(NICKNAME, nickname)
  current = lobby
  view.enterChat(nickname)
}

function leave(error = "") {
  const old = socket
  socket = null
  old.disconnect()
  rooms.forEach((room) => room.forget())
  view.setDraft("")
  view.leaveChat(nickname, error)
  roomList()
}

// Rooms

function join(room, code) {
  const channel = socket.channel(room.topic, code === undefined ? {} : { code })
  channel.on("history", ({ messages }) => history(room, messages))
  channel.on("new_msg", (message) => received(room, message))
  channel.on("typing", ({ nickname: other }) => other === nickname || room.typing(other, typing))
  channel.on("entered", ({ nickname: other, at }) => add(room, { text: `${other} came in`, at }))
  channel.on("left", ({ nickname: other, at }) => add(room, { text: `${other} left`, at }))
  channel.on("announcement", ({ text }) => view.announce(text))
  channel
    .join()
    .receive("ok", () => joined(room, channel))
    .receive("error", ({ reason }) => refused(room, channel, reason))
}

function joined(room, channel) {
  room.channel = channel
  room.refusal = null
  roomList()
  if (room === lobby) arrived()
  if (room === current) show(room)
}

function refused(room, channel, reason) {
  channel.leave() // or the client would go on asking
  room.channel = null
  room.refusal = reason
  if (room === current) show(room)
}

function history(room, messages) {
  const news = room.merge(messages).filter((message) => message.nickname !== nickname)
  if (room !== current || document.hidden) room.unread += news.length
  if (room === current) view.drawRoom(room, nickname)
  roomList()
}

function show(room) {
  if (room !== current) current.draft = view.draft()
  const changed = room !== current
  current = room
  if (room.shut() && !room.refusal) join(room)
  view.showRoom(room, nickname, changed)
  typing(room)
  read()
}

function read() {
  current.unread = 0
  roomList()
}

function roomList() {
  view.roomList([...rooms.values()])
}

// Messages

function received(room, message) {
  room.stopTyping(message.nickname, typing)
  if (room.has(message)) return
  if (message.nickname !== nickname && (room !== current || document.hidden)) room.unread += 1
  add(room, message)
  roomList()
}

function add(room, entry) {
  room.entries.push(entry)
  if (room === current) view.append(room, nickname)
}

function send() {
  const body = view.draft().trim()
  const room = current
  if (!body || !room.channel || !view.isOnline()) return
  view.setDraft("")
  toldTyping = 0
  const giveBack = (reason) => {
    if (room === current && !view.draft()) view.setDraft(body)
    view.note(`Not sent: ${reason}.`)
  }
  room.channel
    .push("new_msg", { body })
    .receive("ok", () => view.note(""))
    .receive("error", ({ reason }) => giveBack(reason))
    .receive("timeout", () => giveBack("no answer from the server"))
}

function typing(room) {
  if (room === current) view.typing([...room.typists.keys()])
}

function tellTyping() {
  if (!view.draft().trim() || !current.channel || !view.isOnline() || Date.now() - toldTyping < TYPING_EVERY) return
  toldTyping = Date.now()
  current.channel.push("typing", {})
}

view.listen({
  enter,
  leave: () => {
    localStorage.removeItem(NICKNAME)
    leave()
  },
  choose: (name) => show(rooms.get(name)),
  unlock: (code) => join(current, code),
  typed: tellTyping,
  send,
  seen: () => view.inside() && read(),
})

const remembered = localStorage.getItem(NICKNAME)
if (remembered) enter(remembered)
