// Small helpers for the document. Text always goes in as text: nothing here parses HTML.

export const byId = (id) => document.getElementById(id);

/**
 * Make an element. `properties` are DOM properties, but for `class`, `data` (dataset), `on` (listeners) and names with
 * a dash, which are attributes. Children that are null or false are left out.
 */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name === "class") element.className = value;
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name === "on") for (const [type, listener] of Object.entries(value)) element.addEventListener(type, listener);
    else if (name === "role" || name.includes("-")) element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Have `draw` run once before the next frame, however often the function that this returns is called until then. */
export function oncePerFrame(draw) {
  let planned = false;
  return () => {
    if (planned) return;
    planned = true;
    requestAnimationFrame(() => {
      planned = false;
      draw();
    });
  };
}

/** Write text only where it differs: a screen reader announces every write to a live region. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Copy text, and say on the button for a moment whether that worked. */
export async function copyFrom(button, text) {
  let done = true;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    done = copyBySelection(text); // an insecure page has no clipboard
  }
  const label = (button.dataset.label ??= button.textContent);
  button.textContent = done ? "Copied" : "Copy it by hand";
  setTimeout(() => (button.textContent = label), 1500);
}

function copyBySelection(text) {
  const area = el("textarea", { value: text, class: "offscreen" });
  document.body.append(area);
  area.select();
  try {
    return document.execCommand("copy");
  } finally {
    area.remove();
  }
}

/** Whether keys that a person presses now are meant for `target`, and not for the page. */
export function takesText(target) {
  return target instanceof Element && target.closest("input, textarea, select, [contenteditable]") !== null;
}
