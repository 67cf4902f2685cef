// The notices under the header: what went wrong, with what to do about it. One per code, three at most.

import { byId, el } from "./dom.js";
import { problem } from "./problems.js";
import { signInUrl } from "./settings.js";

const MOST = 3;

const BUTTONS = {
  microphone: "Try the microphone again",
  sound: "Play sound",
  join: "Try again",
  reload: "Reload",
};

export class Notices {
  /** `actions` maps the names of BUTTONS to functions; one that is missing is not offered. */
  constructor(actions) {
    this.actions = actions;
    // Two regions that are there from the start: one inserted together with its text is not announced everywhere.
    this.errors = byId("errors");
    this.notes = byId("notes");
  }

  show(code, detail = "", { label, without = [] } = {}) {
    const what = problem(code, detail);
    this.clear(code);
    const region = what.level === "error" ? this.errors : this.notes;
    const notice = el(
      "div",
      { class: `notice ${what.level}`, data: { code } },
      el("p", {}, el("strong", {}, `${what.title}.`), " ", what.text),
      el("div", { class: "notice-actions" }, without.includes(what.action) ? null : this.#action(what, label), this.#close(what)),
    );
    region.append(notice);
    while (region.children.length > MOST) region.firstElementChild.remove();
    return notice;
  }

  clear(...codes) {
    for (const code of codes) {
      for (const notice of document.querySelectorAll(`.notice[data-code="${code}"]`)) notice.remove();
    }
  }

  clearAll() {
    this.errors.replaceChildren();
    this.notes.replaceChildren();
  }

  /** Dismiss the latest; false if there was none. */
  dismiss() {
    const last = this.errors.lastElementChild ?? this.notes.lastElementChild;
    last?.remove();
    return last !== null;
  }

  #action(what, label) {
    if (what.action === "sign_in") {
      const url = signInUrl();
      return url ? el("a", { class: "button", href: url }, "Sign in") : null;
    }
    const act = this.actions[what.action];
    if (!act) return null;
    return el("button", { type: "button", on: { click: () => act(what.code) } }, label ?? BUTTONS[what.action]);
  }

  #close(what) {
    const dismiss = () => this.clear(what.code);
    return el("button", { type: "button", class: "quiet", "aria-label": `Dismiss: ${what.title}`, on: { click: dismiss } }, "Dismiss");
  }
}
