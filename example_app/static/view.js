// The chat's page: draws what it is given and says what was pressed. Whatever people wrote becomes text, never markup.

import { drawer, narrow } from "./drawer.js"
import { avatar, element, hue } from "./elements.js"

const page = Object.fromEntries([...document.querySelectorAll("[id]")].map((found) => [found.id, found]))
const GROUPED_WITHIN = 5 * 60 * 1000
const REASONS = {
  locked: ["This room is locked", "Those who know its code may come in."],
  "wrong code": ["That code does not open it", "Look again, and try once more."],
}
const timeOf = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit" })
const dayOf = new Intl.DateTimeFormat(undefined, { weekday: "long", day: "numeric", month: "long" })
let shown = "" // the room and its door, so that a reconnect does not take the focus from somebody
let atBottom = true
let height = 0

// Small things

function count(badge, unread) {
  badge.hidden = unread === 0
  badge.textContent = unread > 99 ? "99+" : unread
}

function resized() {
  height = page.messages.clientHeight
  if (atBottom) toBottom()
}

function toBottom() {
  page.messages.scrollTop = page.messages.scrollHeight
}

const day = (at) => new Date(at).toDateString()

// The entrance

export const inside = () => !page.chat.hidden

export function entering(busy) {
  page.enter.disabled = busy
  page.enter.textContent = busy ? "Connecting…" : "Come in"
  page["entry-error"].textContent = ""
}

export function enterChat(nickname) {
  page.entrance.hidden = true
  page.chat.hidden = false
  page["me-name"].textContent = nickname
  avatar(nickname, page["me-avatar"])
}

export function leaveChat(nickname, error) {
  drawer(false)
  entering(false)
  shown = ""
  page.chat.hidden = true
  page.announcement.hidden = true
  page.entrance.hidden = false
  page.nickname.value = nickname
  page["entry-error"].textContent = error
  page.nickname.focus()
}

// The rooms

export const roomButtons = () => [...document.querySelectorAll("[data-room]")]

const buttonOf = (room) => document.querySelector(`[data-room="${room.name}"]`)

export function roomList(rooms) {
  for (const room of rooms) {
    buttonOf(room).toggleAttribute("data-locked", room.shut())
    count(buttonOf(room).querySelector(".unread"), room.unread)
  }
  const total = rooms.reduce((sum, room) => sum + room.unread, 0)
  count(page["menu-unread"], total)
  document.title = total ? `(${total}) Hearth` : "Hearth"
}

export function showRoom(room, me, changed) {
  const button = buttonOf(room)
  roomButtons().forEach((each) => each.setAttribute("aria-current", each === button))
  page["room-title"].textContent = button.dataset.title
  page["room-purpose"].textContent = button.dataset.purpose
  page.body.placeholder = `Message ${button.dataset.title}`
  showLock(room)
  drawRoom(room, me)
  if (!changed) return
  note("")
  setDraft(room.draft)
}

function showLock(room) {
  const [title, text] = REASONS[room.refusal] ?? ["You may not come in", room.refusal ?? ""]
  page.unlock.hidden = room.refusal === null
  page.composer.hidden = room.shut()
  page.unlock.dataset.reason = room.refusal ?? ""
  page["unlock-title"].textContent = title
  page["unlock-text"].textContent = text
  page.code.value = ""
  fit()
  const state = [room.name, room.refusal, room.shut()].join()
  const field = room.refusal ? page.code : page.body
  if (!narrow.matches && (state !== shown || page.unlock.contains(document.activeElement))) field.focus()
  shown = state
}

// Who is here

export function people(people, me) {
  const rank = (person) => (person.nickname === me ? 0 : person.away ? 2 : 1)
  const sorted = [...people].sort((a, b) => rank(a) - rank(b) || a.nickname.localeCompare(b.nickname))
  page.people.replaceChildren(...sorted.map((person) => personLine(person, me)))
  page.here.hidden = sorted.length === 0
  page["people-open"].hidden = sorted.length === 0
  page["people-count"].textContent = page["people-open-count"].textContent = sorted.length
  typing(sorted.filter((person) => person.typing && person.nickname !== me).map(({ nickname }) => nickname))
}

function personLine(person, me) {
  const made = element("li", "person")
  made.dataset.nickname = person.nickname
  made.dataset.state = person.away ? "away" : "here"
  made.append(avatar(person.nickname), element("span", "person-name", person.nickname))
  if (person.nickname === me) made.append(element("span", "muted", "(you)"))
  made.append(element("span", "person-note", noteOf(person, me)))
  return made
}

function noteOf({ nickname, away, tabs, typing }, me) {
  if (typing && nickname !== me) return "typing…"
  if (away) return "away"
  return tabs > 1 ? `${tabs} tabs` : ""
}

export function away(is) {
  page.away.setAttribute("aria-pressed", is)
  status()
}

// The messages

export function drawRoom(room, me) {
  const list = page.messages
  list.setAttribute("aria-busy", "true")
  const firstUnread = room.unread ? room.entries.filter((entry) => entry.body).at(-room.unread) : undefined
  const drawn = room.entries.map((entry, index) => lines(room.entries[index - 1], entry, me, entry === firstUnread))
  list.replaceChildren(...drawn.flat())
  list.removeAttribute("aria-busy")
  page.empty.hidden = !room.loaded || room.entries.some((entry) => entry.body)
  toBottom()
}

/** Shows where the last of these lines stands; what came after it is a click away. */
export function showLine(text) {
  const line = [...page.messages.querySelectorAll(".system")].findLast((each) => each.textContent === text)
  line.scrollIntoView({ block: "center" })
  atBottom = false // a banner that goes would take us there again
  page.jump.hidden = false
}

export function append(room, me) {
  const [before, entry] = [room.entries.at(-2), room.entries.at(-1)]
  const follows = atBottom || entry.nickname === me
  const made = lines(before, entry, me, false)
  made.forEach((line) => line.classList.add("fresh"))
  page.messages.append(...made)
  if (entry.body) page.empty.hidden = true
  if (follows) toBottom()
  else if (entry.body) page.jump.hidden = false
}

function lines(before, entry, me, divides) {
  const made = []
  if (!before || day(before.at) !== day(entry.at)) made.push(element("li", "day", dayOf.format(entry.at)))
  if (divides) made.push(element("li", "divider", "New"))
  made.push(entry.body ? message(before, entry, me, made.length > 0) : element("li", "system", entry.text))
  return made
}

function message(before, entry, me, apart) {
  const goesOn = !apart && before.nickname === entry.nickname && entry.at - before.at < GROUPED_WITHIN
  const made = element("li", "message")
  made.classList.toggle("mine", entry.nickname === me)
  made.classList.toggle("goes-on", goesOn)
  made.dataset.id = entry.id
  made.dataset.nickname = entry.nickname
  if (!goesOn) made.append(avatar(entry.nickname), head(entry))
  made.append(element("p", "bubble", entry.body))
  made.lastChild.title = new Date(entry.at).toLocaleString()
  return made
}

function head(entry) {
  const made = element("p", "head")
  const name = element("span", "name", entry.nickname)
  name.style.setProperty("--hue", hue(entry.nickname))
  const time = element("time", "muted", timeOf.format(entry.at))
  time.dateTime = new Date(entry.at).toISOString()
  made.append(name, time)
  return made
}

// Writing

export const draft = () => page.body.value

export function setDraft(text) {
  page.body.value = text
  fit()
}

function fit() {
  const { body, left, send } = page
  body.style.height = "auto"
  body.style.height = `${body.scrollHeight}px`
  left.textContent = body.maxLength - body.value.length
  left.hidden = body.maxLength - body.value.length > 80
  send.disabled = !body.value.trim() || !isOnline()
}

export function note(text) {
  page.notice.textContent = text
}

function typing(nicknames) {
  const many = nicknames.length > 2 ? "Several people" : nicknames.join(" and ")
  page["typing-text"].textContent = nicknames.length ? `${many} ${nicknames.length > 1 ? "are" : "is"} typing` : ""
  page.typing.classList.toggle("on", nicknames.length > 0)
}

// The state of the connection, and announcements

export const isOnline = () => document.documentElement.dataset.online === "true"

export function online(is) {
  document.documentElement.dataset.online = is
  page["banner-text"].textContent = is ? "" : "Connection lost. Reconnecting…"
  page.banner.hidden = is
  status()
  fit()
}

function status() {
  const present = page.away.getAttribute("aria-pressed") === "true" ? "Away" : "Connected"
  page.status.textContent = isOnline() ? present : "Offline"
}

export function servedBy(worker) {
  page.status.dataset.worker = worker
  page.status.title = `Served by worker ${worker}`
}

export function announce(text) {
  page["announcement-text"].textContent = text
  page.announcement.hidden = false
}

async function postAnnouncement(form) {
  const answer = await fetch(form.action, { method: "POST", body: new FormData(form) }).catch(() => null)
  page["announce-error"].textContent = answer?.ok ? "" : "It could not be announced."
  if (!answer?.ok) return
  form.reset()
  page.announce.close()
}

// What was pressed

function onSubmit(id, act) {
  page[id].addEventListener("submit", (event) => {
    event.preventDefault()
    act(event.target)
  })
}

function onClick(id, act) {
  page[id].addEventListener("click", act)
}

export function listen({ enter, leave, choose, unlock, typed, send, away, hidden }) {
  onSubmit("entry", () => page.nickname.value.trim() && enter(page.nickname.value.trim()))
  onSubmit("unlock", () => unlock(page.code.value))
  onSubmit("composer", send)
  onSubmit("announce-form", postAnnouncement)
  onClick("leave", leave)
  onClick("away", away)
  onClick("announce-open", () => page.announce.showModal())
  onClick("announce-cancel", () => page.announce.close())
  onClick("announcement-close", () => (page.announcement.hidden = true))
  onClick("jump", toBottom)
  for (const button of roomButtons()) {
    button.addEventListener("click", () => {
      drawer(false)
      choose(button.dataset.room)
    })
  }
  page.messages.addEventListener("scroll", ({ target }) => {
    if (target.clientHeight !== height) return // a banner or the keyboard took the room: nobody scrolled
    atBottom = target.scrollHeight - target.scrollTop - height < 80
    if (atBottom) page.jump.hidden = true
  })
  new ResizeObserver(resized).observe(page.messages)
  page.body.addEventListener("input", () => (fit(), typed(draft())))
  page.body.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return
    event.preventDefault()
    send()
  })
  document.addEventListener("visibilitychange", () => hidden(document.hidden))
}
