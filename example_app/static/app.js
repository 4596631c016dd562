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
   #people                           who is in the room shown: li.person[data-nickname][data-state="here" or "away"],
                                     with .person-note ("typing…", "away", "2 tabs", or empty); #people-count beside it.
                                     On a phone #people-open opens the list
   #away                             says that we are away, and that we are back: aria-pressed
   #unlock #code #unlock-enter       instead of #composer while a join is refused; data-reason="locked" or "wrong code"
   #status                           data-worker: the process that serves this page's socket
   #banner                           [hidden] while connected; html[data-online] is "true" or "false"
   #announcement #announcement-text  the last announcement; #announcement-close hides it
   #announce-open #announce-text #announce-send   making one */

import { recover } from "flask_phoenix/recover"
import { Presence, Socket } from "phoenix"

import { Room } from "./room.js"
import * as view from "./view.js"

const NICKNAME = "hearth.nickname"
const AWAY = "hearth.away"
const TYPING_LASTS = 4000
const AWAY_AFTER = 60_000
const GAP = "There is a gap"

const rooms = new Map(
  view.roomButtons().map(({ dataset }) => [dataset.room, new Room(dataset.room, "locked" in dataset)]),
)
const lobby = rooms.get("lobby")
let current = lobby
let nickname = null
let socket = null
let unseen = false // this page has been hidden for a while
let hiding // the timer that says so
let pausing // the timer that ends our typing

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
  tellAway()
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
  const channel = recover(socket, room.topic, code === undefined ? {} : { code }, {
    onCaughtUp: ({ missed }) => caughtUp(room, room.follow(missed)),
    onGap: () => room.part(),
  })
  channel.on("history", ({ messages }) => history(room, messages))
  channel.on("new_msg", (message) => {
    received(room, message)
    caughtUp(room, room.took(true))
  })
  const presence = new Presence(channel)
  presence.onSync(() => met(room, presence.list(person)))
  channel.on("announcement", ({ text }) => {
    view.announce(text)
    caughtUp(room, room.took(false))
  })
  channel
    .join()
    .receive("ok", ({ worker }) => joined(room, channel, worker))
    .receive("error", ({ reason }) => refused(room, channel, reason))
}

function joined(room, channel, worker) {
  view.servedBy(worker)
  room.arrive(channel)
  room.refusal = null
  roomList()
  if (room === lobby) arrived()
  tell(room, { away: away() })
  if (room === current) show(room)
}

function refused(room, channel, reason) {
  channel.leave() // or the client would go on asking
  room.arrive(null)
  room.refusal = reason
  if (room === current) show(room)
}

function caughtUp(room, count) {
  if (count) add(room, { text: `Caught up, ${count} ${count === 1 ? "message" : "messages"}`, at: Date.now() })
}

// What the room no longer sends again may still be among its last messages; if these reach back to what we have.
function history(room, messages) {
  const joins = room.joins(messages)
  const known = room.entries.length
  if (joins === false) add(room, { text: GAP, at: messages[0].at - 1 })
  const news = room.merge(messages).filter((message) => message.nickname !== nickname)
  if (room !== current || document.hidden) room.unread += news.length
  if (joins) caughtUp(room, room.entries.length - known)
  if (room === current) view.drawRoom(room, nickname)
  if (room === current && joins === false) view.showLine(GAP)
  roomList()
}

function show(room) {
  const changed = room !== current
  if (changed) {
    current.draft = view.draft()
    typed("")
  }
  current = room
  if (room.shut() && !room.refusal) join(room)
  view.showRoom(room, nickname, changed)
  view.people(room.people, nickname)
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
  typed("")
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

// Who is here

// One person, however many tabs: away when all of them are, typing when one is.
function person(nickname, { metas }) {
  return {
    nickname,
    at: Math.min(...metas.map(({ at }) => at)),
    tabs: metas.length,
    away: metas.every((meta) => meta.away),
    typing: metas.some((meta) => meta.typing),
  }
}

function met(room, people) {
  const { came, left } = room.meet(people)
  came.forEach(({ nickname, at }) => add(room, { text: `${nickname} came in`, at }))
  left.forEach(({ nickname }) => add(room, { text: `${nickname} left`, at: Date.now() }))
  if (room === current) view.people(people, nickname)
}

// Tells a room what has changed with us.
function tell(room, status) {
  const changes = Object.fromEntries(Object.entries(status).filter(([name, is]) => room.told[name] !== is))
  if (!room.channel || !view.isOnline() || !Object.keys(changes).length) return
  Object.assign(room.told, changes)
  room.channel.push("status", changes)
}

function typed(draft) {
  const room = current
  const typing = draft.trim() !== ""
  clearTimeout(pausing)
  if (typing) pausing = setTimeout(() => tell(room, { typing: false }), TYPING_LASTS)
  tell(room, { typing })
}

const away = () => unseen || localStorage.getItem(AWAY) !== null

function tellAway() {
  view.away(localStorage.getItem(AWAY) !== null)
  rooms.forEach((room) => tell(room, { away: away() }))
}

// All our tabs in this browser: the others hear of it by the event "storage".
function toggleAway() {
  localStorage.getItem(AWAY) === null ? localStorage.setItem(AWAY, "yes") : localStorage.removeItem(AWAY)
  tellAway()
}

function hidden(is) {
  clearTimeout(hiding)
  if (is) hiding = setTimeout(hid, AWAY_AFTER)
  else unseen = false
  if (!view.inside()) return
  tellAway()
  if (!is) read()
}

function hid() {
  unseen = true
  tellAway()
}

view.listen({
  enter,
  leave: () => {
    localStorage.removeItem(NICKNAME)
    leave()
  },
  choose: (name) => show(rooms.get(name)),
  unlock: (code) => join(current, code),
  typed,
  send,
  away: toggleAway,
  hidden,
})
addEventListener("storage", ({ key }) => key === AWAY && tellAway())
hidden(document.hidden)

const remembered = localStorage.getItem(NICKNAME)
if (remembered) enter(remembered)
