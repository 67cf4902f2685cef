// A list of tabs by the ARIA pattern: one tab stop, arrow keys move, the panel is named by its tab.

export class Tabs {
  #tabs;

  /** `list` has buttons with `aria-controls`; `onchange(name)` is called with the `data-tab` of the one chosen. */
  constructor(list, onchange = () => {}) {
    this.onchange = onchange;
    this.#tabs = [...list.querySelectorAll("[role=tab]")];
    for (const tab of this.#tabs) tab.addEventListener("click", () => this.select(tab.dataset.tab));
    list.addEventListener("keydown", (event) => this.#key(event));
  }

  get current() {
    return this.#tabs.find((tab) => tab.getAttribute("aria-selected") === "true")?.dataset.tab ?? "";
  }

  select(name) {
    for (const tab of this.#tabs) {
      const chosen = tab.dataset.tab === name;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
      document.getElementById(tab.getAttribute("aria-controls")).dataset.shown = String(chosen);
    }
    this.onchange(name);
  }

  #key(event) {
    const index = this.#tabs.indexOf(document.activeElement);
    const count = this.#tabs.length;
    const to = { ArrowRight: index + 1, ArrowLeft: index - 1, Home: 0, End: count - 1 }[event.key];
    if (index < 0 || to === undefined) return;
    event.preventDefault();
    const tab = this.#tabs[(to + count) % count];
    tab.focus();
    this.select(tab.dataset.tab);
  }
}
