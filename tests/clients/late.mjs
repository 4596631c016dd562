// Joins whose replies come too late, and a client that recovers: prints what it shows, and what it says that it has.

import { Socket } from "phoenix"
import { recover } from "../../flask_phoenix/static/recover.mjs"

const shown = []
const channel = recover(new Socket("ws://127.0.0.1:9"), "room:1", {}, { onCaughtUp: ({ missed }) => shown.push(`${missed} missed`) })
const reply = (told) => {
  channel.trigger("phx_reply", { status: "ok", response: { phx_history: told } }, channel.joinRef(), channel.joinRef())
}
channel.on("said", ({ n }) => shown.push(n))
channel.join()
channel.trigger("said", { n: 1 }, "e:1", null) // of the join that the client has given up
channel.trigger("phx_offset", {}, "e:2", null)
channel.trigger("said", { n: 2 }, null, null)
const before = channel.params().since
reply({ recovered: false, ref: "e:0" })
channel.trigger("said", { n: 1 }, "e:1", null)
channel.trigger("phx_error", {})
channel.rejoin()
channel.joinPush.trigger("timeout", {})
reply({ recovered: true, missed: 1, ref: "e:1" })
channel.trigger("said", { n: 2 }, "e:2", null)
console.log(JSON.stringify([before, shown, channel.params().since.ref]))
process.exit()
