import { Socket } from "phoenix";
import type { UserSocket } from "./declared";

const socket: UserSocket = new Socket("/shop/7/socket");
const room = socket.channel("room:42", { nick: "Ada" });
socket.channel("rooms:42", { nick: "Ada" }); // wrong
socket.channel("room:42", { nick: 7 }); // wrong
socket.channel("room:42"); // wrong
room.join().receive("ok", (state) => state.nothing); // wrong
room.join().receive("okay", () => undefined); // wrong
room.push("new_mgs", { body: "Hello" }); // wrong
room.push("new_msg", { text: "Hello" }); // wrong
room.push("new_msg", { body: 7 }); // wrong
room.push("new_msg", { body: "Hello" }).receive("ok", (saved) => saved.id.trim()); // wrong
room.push("act", { type: "stop", why: "angry" }); // wrong
room.push("frame", { body: "Hello" }); // wrong
room.push("article", { author: {}, pair: [1, "a"] }); // wrong
room.on("new_mgs", () => undefined); // wrong
room.on("new_msg", (message) => message.text); // wrong
socket.channel("room:lobby").push("new_msg", {}); // wrong
socket.channel("desk:7"); // wrong
const desk = socket.channel("desk:7", { nick: "Ada" });
desk.push("move", { colour: "red" }); // wrong
desk.push("move-to", { colour: "green" }); // wrong
desk.push("move-to", { colour: "red", next: {} }); // wrong
desk.push("price", { gross: 7 }); // wrong
desk.on("priced", ({ net }) => net); // wrong
