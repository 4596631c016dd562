// A headless Chromium that talks to nobody but the server under test.

import { accessSync, constants } from "node:fs"
import { delimiter, join } from "node:path"
import { chromium } from "playwright-core"

const FLAGS = [
  "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
]

/** The browser of $CHROMIUM, or else the system's. */
function executable() {
  const onPath = (process.env.PATH ?? "").split(delimiter).map((folder) => join(folder, "chromium"))
  const candidates = process.env.CHROMIUM ? [process.env.CHROMIUM] : ["/usr/bin/chromium", ...onPath]
  const found = candidates.find(isExecutable)
  if (!found) throw new Error("no chromium on PATH: install one, or name it in the environment variable CHROMIUM")
  return found
}

function isExecutable(path) {
  try {
    accessSync(path, constants.X_OK)
    return true
  } catch {
    return false
  }
}

export function launch() {
  return chromium.launch({ executablePath: executable(), args: FLAGS })
}
