// How these scripts talk to the test that started them: one JSON value a line, each way.

import { createInterface } from "node:readline"

const heard = []
const waiting = []
let over = false

const input = createInterface({ input: process.stdin })
input.on("line", (line) => {
  const value = JSON.parse(line)
  waiting.length ? waiting.shift()(value) : heard.push(value)
})
input.on("close", () => {
  over = true
  if (waiting.length) process.exit(1)
})

export function tell(value) {
  return new Promise((resolve) => process.stdout.write(`${JSON.stringify(value)}\n`, resolve))
}

/** The next line of the test; once there can be none, the script ends. */
export async function hear() {
  if (heard.length) return heard.shift()
  if (over) process.exit(1)
  return new Promise((resolve) => waiting.push(resolve))
}

/** Asks the test to do something, and waits until it is done. */
export async function ask(what) {
  await tell({ ask: what })
  await hear()
}
