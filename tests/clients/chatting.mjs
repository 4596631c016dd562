// What people do in the example's chat.

export async function say(page, text) {
  await page.fill("#body", text)
  await page.press("#body", "Enter")
}

export function heard(page, nickname, text) {
  return page.waitForSelector(`#messages li.message[data-nickname="${nickname}"] .bubble:has-text("${text}")`)
}
