import { Presence, Socket } from "phoenix";
import type { Recovery, UserSocket } from "./declared";

const socket: UserSocket = new Socket("/shop/7/socket", { params: { user: 7 } });
socket.connect();
const room = socket.channel("room:42", { nick: "Ada" });
room.join().receive("ok", (state) => state.messages[0].body.trim()).receive("error", ({ reason }) => reason?.trim());
room.on("new_msg", (message) => message.reply_to?.toFixed());
room.on("frame", (frame) => frame.byteLength);
room
  .push("new_msg", { body: "Hello" }, 1000)
  .receive("ok", (saved) => saved.id.toFixed())
  .receive("error", ({ errors }) => errors?.map(({ path }) => path.trim()))
  .receive("timeout", () => undefined);
room.push("act", { type: "stop", why: "bored" });
room.push("frame", new ArrayBuffer(8)).receive("ok", (bytes) => bytes.byteLength);
room.push("article", { author: { name: "Ada" }, pair: [1, "a"] });
new Presence(room).list();
const id: string = "7";
socket.channel(`room:${id}`, () => ({ nick: "Ada" })).leave();
const lobby = socket.channel("room:lobby");
lobby.on("anything", (payload) => payload.whatever);
lobby.push("shout", {});
let last: Recovery | undefined;
const recovering = socket.channel("room:43", () => ({ nick: "Ada", since: last ?? null }));
recovering.on("new_msg", (message, ref) => message.body.trim() && last && ref && (last = { ...last, ref }));
recovering.join().receive("ok", ({ messages, phx_history }) => messages.length && (last = phx_history));
const desk = socket.channel("desk:7", { nick: "Ada" });
desk.on("desk:moved", ({ colour, at, next }) => colour === "red" && at?.trim() && next?.next?.colour);
desk.on("priced", ({ gross, shown, next }) => gross.toFixed() + shown.trim() + next?.shown);
desk.push("move-to", { colour: "red", next: { colour: "blue" } }).receive("ok", ({ text }) => text.trim());
desk.push("delete", { colour: "red" });
desk.push("price", { net: 7, colour: "blue" }).receive("ok", ([author]) => author.pen_name.trim());
