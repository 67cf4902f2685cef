// Refreshes the rows of Django's list where they stand.
//
// Django's actions.js holds on to the checkboxes that it found when the page was loaded. So a checkbox stays where it is
// and gets the key of the row that stands there now; only a row beyond the last one is new to it.

/** Show the rows of `fresh`. Returns true if that has to wait, because rows are selected or the keyboard is in them. */
export function updateList(fresh) {
  const source = fresh.getElementById("va-list");
  if (source === null) return false;
  const list = document.getElementById("result_list");
  const rows = [...source.querySelectorAll("#result_list tbody tr")];
  if (list === null) {
    if (rows.length > 0) location.reload(); // the first row ever: the page has no list yet
    return false;
  }
  const body = list.tBodies[0];
  if (body.querySelector("input.action-select:checked") !== null || body.contains(document.activeElement)) return true;
  const shown = [...body.rows];
  rows.forEach((row, number) => {
    if (number < shown.length) change(shown[number], row);
    else body.append(document.adoptNode(row));
  });
  for (const row of shown.slice(rows.length)) row.remove();
  if (rows.length > shown.length && typeof window.Actions === "function") {
    const boxes = document.querySelectorAll("tr input.action-select");
    if (boxes.length > 0) window.Actions(boxes);
  }
  const counter = document.querySelector("span.action-counter");
  if (counter !== null) {
    counter.textContent = counter.textContent.replace(/(\d+)(?!.*\d)/, String(rows.length));
    counter.dataset.actionsIcnt = String(rows.length);
  }
  return false;
}

function change(old, row) {
  const box = old.querySelector("input.action-select");
  const other = row.querySelector("input.action-select");
  if (box !== null && other !== null) {
    box.value = other.value;
    box.setAttribute("aria-label", other.getAttribute("aria-label") ?? "");
  }
  [...row.cells].forEach((cell, number) => {
    const shown = old.cells[number];
    if (shown === undefined) old.append(document.adoptNode(cell));
    else if (!shown.classList.contains("action-checkbox") && !shown.isEqualNode(cell)) {
      shown.replaceWith(document.adoptNode(cell));
    }
  });
}
