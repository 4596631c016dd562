// What the pages are made of.

export function element(name, className, text) {
  const made = document.createElement(name)
  made.className = className
  if (text !== undefined) made.textContent = text
  return made
}

export function hue(nickname) {
  let sum = 7
  for (const letter of nickname) sum = (sum * 31 + letter.codePointAt(0)) % 3600
  return (sum % 12) * 30 + 10
}

export function avatar(nickname, made = element("span", "avatar")) {
  made.textContent = [...nickname][0].toUpperCase()
  made.style.setProperty("--hue", hue(nickname))
  made.setAttribute("aria-hidden", "true")
  return made
}
