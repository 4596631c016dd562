// Before the first paint: the colours that were chosen here before, if any were.
(() => {
  try {
    const theme = localStorage.getItem("phoenix-dashboard-theme")
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme
  } catch {
    // Without storage the page follows the system.
  }
})()
