// One membership of the call, kept up over several links: when one breaks, the next joins again.

import { Link, LinkError } from "./link.js";
import { serverAnswers } from "./rest.js";
import { joinToken, socketUrl } from "./settings.js";

const FIRST_RETRY_MS = [300, 1000, 2000];
const RETRY_MS = [300, 1000, 2000, 4000, 8000, 8000, 8000, 8000, 8000, 8000, 8000];
/** Not for whoever was in the call a moment ago: the server may not know yet that their last link has broken. */
const NO_ROOM = ["full", "too_many"];

/**
 * Events: "joined" with {link, welcome, again}; "moved" with {link, welcome}: the call goes on over the same link, in
 * another process of the server; "broken" with a LinkError; "failed" with a LinkError, and it is over.
 */
export class Connection extends EventTarget {
  #run = 0;
  #link = null;
  #hurry = () => {};

  constructor() {
    super();
    addEventListener("online", () => this.#hurry());
  }

  /** Join. Throws LinkError if that fails the first time; what comes later is told by events. */
  async join(name) {
    const run = ++this.#run;
    let joined;
    try {
      joined = await this.#openFirst(run, name);
    } catch (error) {
      if (error.code === "unreachable" && (await serverAnswers())) throw new LinkError("websocket_blocked");
      throw error.code === "lost" ? new LinkError("unreachable") : error;
    }
    this.#keep(run, name, joined, false);
  }

  leave() {
    this.#run += 1;
    this.#link?.leave();
    this.#link = null;
    this.#hurry();
  }

  /** A server whose processes come and go may need a moment; what another try will not change is told at once. */
  async #openFirst(run, name) {
    for (const wait of FIRST_RETRY_MS) {
      try {
        return await this.#open(name);
      } catch (error) {
        if (!["elsewhere", "going_away"].includes(error.code)) throw error;
        await this.#pause(wait * (0.75 + Math.random() / 2));
        if (run !== this.#run) throw error;
      }
    }
    return this.#open(name);
  }

  async #open(name) {
    const link = new Link();
    const hello = { token: joinToken(), moves: true, ...(name ? { name } : {}) };
    return { link, welcome: await link.open(socketUrl(), hello) };
  }

  #keep(run, name, { link, welcome }, again) {
    if (run !== this.#run) {
      link.leave();
      return;
    }
    this.#link = link;
    link.addEventListener("ended", ({ detail: error }) => {
      if (run !== this.#run) return;
      this.#link = null;
      if (error.final) this.#emit("failed", error);
      else this.#again(run, name, error);
    });
    link.addEventListener("welcome", ({ detail }) => run === this.#run && this.#emit("moved", { link, welcome: detail }));
    this.#emit("joined", { link, welcome, again });
  }

  async #again(run, name, cause) {
    this.#emit("broken", cause);
    let last = cause;
    for (const wait of RETRY_MS) {
      await this.#pause(wait * (0.75 + Math.random() / 2)); // not all pages of a restarted server at once
      if (run !== this.#run) return;
      try {
        this.#keep(run, name, await this.#open(name), true);
        return;
      } catch (error) {
        if (run !== this.#run) return;
        last = error;
        if (error.final && !["unreachable", ...NO_ROOM].includes(error.code)) {
          this.#emit("failed", error);
          return;
        }
      }
    }
    this.#emit("failed", ["elsewhere", ...NO_ROOM].includes(last.code) ? last : new LinkError("unreachable"));
  }

  #pause(ms) {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, ms);
      this.#hurry = () => resolve(clearTimeout(timer));
    });
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
