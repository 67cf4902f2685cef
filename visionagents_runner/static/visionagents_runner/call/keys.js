// Keyboard shortcuts: single keys, which can be switched off, because they also get in the way of speech input.

import { byId, takesText } from "./dom.js";
import { recall, remember } from "./settings.js";

/** `actions` is by key; "Escape" also works in the text box, where it only leaves the box. */
export function listenForKeys(actions) {
  const switchBox = byId("shortcuts-on");
  switchBox.checked = recall("shortcuts", "on") === "on";
  switchBox.addEventListener("change", () => remember("shortcuts", switchBox.checked ? "on" : "off"));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.isComposing || event.defaultPrevented) return;
    if (event.key === "Escape") {
      if (takesText(event.target)) event.target.blur();
      else actions.Escape();
      return;
    }
    if (!switchBox.checked || event.repeat || takesText(event.target)) return;
    const action = actions[event.key.toLowerCase()];
    if (!action) return;
    event.preventDefault();
    action();
  });
}
