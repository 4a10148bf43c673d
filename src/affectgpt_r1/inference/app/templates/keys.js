// Keys click the buttons of the tab that is shown; a field that is typed in keeps its keys.
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const field = event.target.closest?.("input, textarea, select, [contenteditable=true], [role=listbox], video");
  if (field) return;
  const button = {
    ArrowLeft: "#ag-previous, #ag-prefer-a1", ArrowRight: "#ag-next, #ag-prefer-a2",
    j: "#ag-next", k: "#ag-previous", 1: "#ag-prefer-a1", 2: "#ag-prefer-a2",
    s: "#ag-prefer-same", n: "#ag-prefer-neither",
  }[event.key];
  const shown = button && [...document.querySelectorAll(button)].find((found) => found.offsetParent && !found.disabled);
  if (shown) {
    event.preventDefault();
    shown.click();
  }
});
