// Before the first paint: the colours that were chosen here before, or those of the system.
(() => {
  const { dataset } = document.documentElement
  try {
    dataset.chosen = localStorage.getItem("phoenix-dashboard-theme") ?? "system"
  } catch {
    dataset.chosen = "system"
  }
  const dark = matchMedia("(prefers-color-scheme: dark)").matches
  dataset.theme = dataset.chosen === "system" ? (dark ? "dark" : "light") : dataset.chosen
})()
