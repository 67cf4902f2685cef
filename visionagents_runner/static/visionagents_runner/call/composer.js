// The text box. It can always be used: what is typed before or between connections waits, and goes when there is one.

import { byId } from "./dom.js";

const MOST_WAITING = 20;

export class Composer {
  #waiting = [];
  #count = 0;
  #link = null;
  #inFlight = new Map(); // text by id

  /** `onfirst()` is called when something is typed and there is no connection: it should make one. */
  constructor(transcript, onfirst) {
    this.transcript = transcript;
    this.onfirst = onfirst;
    this.form = byId("composer");
    this.box = byId("say");
    this.hint = byId("say-hint");
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    this.box.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#submit();
    });
  }

  /** From now on send over `link`, first what waits. */
  connect(link, { limits = {}, speaks = true } = {}) {
    this.#link = link;
    this.box.maxLength = limits.text_chars ?? 4000;
    this.setUsable(speaks);
    link.addEventListener("said", ({ detail }) => this.#inFlight.delete(detail.id));
    link.addEventListener("error", ({ detail }) => this.#failed(detail));
    for (const { id, text } of this.#waiting.splice(0)) this.#send(id, text);
  }

  /** Without a connection what is typed waits. */
  disconnect() {
    this.#link = null;
    // What the server did not confirm may not have arrived.
    for (const id of this.#inFlight.keys()) this.#offerAgain(id, "the connection broke before the server confirmed it.");
    this.#inFlight.clear();
  }

  /** The connection will not come: what waits cannot be sent. */
  giveUp(why) {
    this.disconnect();
    for (const { id } of this.#waiting.splice(0)) this.#offerAgain(id, why);
  }

  setUsable(speaks) {
    this.box.disabled = byId("send").disabled = !speaks;
    this.hint.textContent = speaks
      ? "Enter sends, Shift+Enter makes a new line."
      : "Your invitation is to listen: who has it cannot speak or type.";
  }

  focus() {
    this.box.focus();
  }

  #submit() {
    const text = this.box.value.trim();
    if (!text || this.box.disabled) return;
    this.box.value = "";
    this.#take(text);
  }

  #take(text) {
    const id = `say-${Date.now().toString(36)}-${++this.#count}`;
    this.transcript.typed(id, text);
    if (this.#link?.isOpen) {
      this.#send(id, text);
    } else if (this.#waiting.length < MOST_WAITING) {
      this.#waiting.push({ id, text });
      this.onfirst();
    } else {
      this.#offerAgain(id, "too much waits for the connection already.");
    }
  }

  #send(id, text) {
    this.#inFlight.set(id, text);
    if (!this.#link.send({ type: "say", id, text })) this.#offerAgain(id, "the connection broke.");
  }

  #failed({ id, code, detail }) {
    if (!this.#inFlight.delete(id)) return;
    this.#offerAgain(id, code === "too_fast" ? "too many messages at once." : detail || "the server refused it.");
  }

  #offerAgain(id, why) {
    this.transcript.notSent(id, why, (text) => this.#take(text));
  }
}
