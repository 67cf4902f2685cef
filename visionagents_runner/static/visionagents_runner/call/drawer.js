// The drawer at the bottom: Events, Turns, Audio. Closed until there is something in it.

import { byId } from "./dom.js";
import { recall, remember } from "./settings.js";
import { Tabs } from "./tabs.js";

const ROOM = matchMedia("(min-width: 1100px) and (min-height: 800px)");

/** Event: "shown" with the name of the tab that can be seen now, or "" when the drawer is closed. */
export class Drawer extends EventTarget {
  #began = false;

  constructor() {
    super();
    this.root = byId("drawer");
    this.toggle = byId("drawer-toggle");
    this.body = byId("drawer-body");
    this.tabs = new Tabs(byId("drawer-tabs"), () => this.#open(true));
    this.toggle.addEventListener("click", () => this.#choose(!this.isOpen));
  }

  get isOpen() {
    return !this.body.hidden;
  }

  /** The first event came. It opens by itself where there is room for it, unless it was closed here before. */
  begin() {
    if (this.#began) return;
    this.#began = true;
    this.root.dataset.empty = "false";
    if (ROOM.matches && recall("drawer") !== "closed") this.#open(true);
  }

  close() {
    this.#choose(false);
  }

  switch() {
    this.#choose(!this.isOpen);
  }

  #choose(open) {
    remember("drawer", open ? "open" : "closed");
    this.#open(open);
  }

  #open(open) {
    this.body.hidden = !open;
    this.toggle.setAttribute("aria-expanded", String(open));
    this.root.dataset.open = String(open);
    this.dispatchEvent(new CustomEvent("shown", { detail: open ? this.tabs.current : "" }));
  }
}
