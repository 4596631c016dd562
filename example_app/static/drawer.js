// The sidebar, which on a phone is a drawer.

export const narrow = matchMedia("(max-width: 760px)")

const [sidebar, menu, close] = ["sidebar", "menu", "sidebar-close"].map((id) => document.getElementById(id))

export function drawer(open) {
  const visible = open && narrow.matches
  const returns = sidebar.contains(document.activeElement) && !visible && narrow.matches
  document.querySelector(".chat").classList.toggle("drawer-open", visible)
  menu.setAttribute("aria-expanded", visible)
  sidebar.inert = narrow.matches && !visible
  if (visible) (sidebar.querySelector("[aria-current=true], nav:not(.pages) button") ?? close).focus()
  if (returns) menu.focus()
}

for (const id of ["menu", "people-open"]) document.getElementById(id).addEventListener("click", () => drawer(true))
for (const id of ["scrim", "sidebar-close"]) document.getElementById(id).addEventListener("click", () => drawer(false))
document.addEventListener("keydown", (event) => event.key === "Escape" && drawer(false))
narrow.addEventListener("change", () => drawer(false))
drawer(false)
