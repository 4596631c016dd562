// Two people who edit one document, each at a worker of their own:
//
//     node documents.mjs PARTS URL URL
//
// PARTS is the module of docs/howto/documents.md that sends long edits in parts. One line of JSON tells what each sees.

import WebSocket from "ws"
import * as Y from "yjs"
import { Socket } from "phoenix"
import { PhoenixChannelProvider } from "y-phoenix-channel"
import { tell } from "./lines.mjs"

const [parts, ...urls] = process.argv.slice(2)
const { inParts } = await import(parts)
const PASTED = "x".repeat(3_000_000) // three times the largest frame

class DocumentSocket extends Socket {
  channel(topic, params) { return inParts(super.channel(topic, params)) }
}

/** One person: a document of their own, which the server keeps equal to the others'. */
async function open(url) {
  const document = new Y.Doc()
  const socket = new DocumentSocket(url, { transport: WebSocket })
  const closes = []
  socket.onClose((event) => closes.push(event.code))
  socket.connect()
  const provider = new PhoenixChannelProvider(socket, "document:minutes", document, { disableBc: true })
  const person = { document, provider, socket, closes, text: document.getText("text") }
  await until(provider, "sync", () => provider.synced)
  return person
}

/** Wait for an event after which this is so. */
function until(source, event, condition) {
  return new Promise((resolve) => {
    const look = () => { if (condition()) { source.off(event, look); resolve() } }
    source.on(event, look)
    look()
  })
}

const has = ({ document, text }, part) => until(document, "update", () => text.toString().includes(part))

const ada = await open(urls[0])
ada.text.insert(0, "Hello")
const alan = await open(urls[1]) // a first sync by a server that has not heard the edit, or has
await has(alan, "Hello")
alan.text.insert(0, "I say: ")
await has(ada, "I say: ")
ada.text.insert(0, PASTED)
await has(alan, PASTED)
ada.socket.disconnect()
await until(ada.provider, "sync", () => !ada.provider.synced)
ada.text.insert(0, "Offline. ")
alan.text.insert(0, "Online. ")
ada.socket.connect()
await Promise.all([has(ada, "Online. "), has(alan, "Offline. ")])
const late = await open(urls[0])
const seen = [ada, alan, late].map(({ text }) => text.toString().replace(PASTED, "[pasted]"))
await tell({ seen, closes: [...ada.closes, ...alan.closes] })
process.exit()
