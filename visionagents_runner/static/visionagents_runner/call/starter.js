// The card over the conversation when there is nobody to answer: no agent yet, or one that has left.

import { byId, setText } from "./dom.js";
import { startAgent } from "./rest.js";
import { keepToken, wantedAgent } from "./settings.js";

export class Starter {
  /** Called when the agent that was started can be joined by an invitation alone, which is kept. */
  onInvitation = () => {};

  #may = false;
  #onReturn = null;
  #starting = false;

  constructor() {
    this.card = byId("starter");
    this.select = byId("starter-agent");
    this.button = byId("starter-start");
    this.error = byId("starter-error");
    byId("starter-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#start();
    });
  }

  /** What this person may start, from the welcome. */
  allow(mayStart, agents) {
    this.#may = Boolean(mayStart && agents.length);
    this.select.replaceChildren(...agents.map((name) => new Option(name, name, false, name === wantedAgent)));
  }

  /** Start what `session` was again, once the page is back in the call: the server loads newer code meanwhile. */
  startOnReturn(session) {
    this.#onReturn = session;
  }

  nobodyYet() {
    const session = this.#onReturn;
    this.#onReturn = null;
    if (session && this.#may) {
      this.select.value = session.agent;
      this.#show("The server has loaded newer code", "The agent comes again.", "Start the agent again", false);
      this.#start({ metadata: session.metadata, tries: WARM_UP_TRIES });
      return;
    }
    this.#show("No agent is in this call yet", this.#may ? "Start one to have an answer." : NOT_YOU, "Start an agent", false);
  }

  /** `words` say why its session ended; `agent` is its kind. */
  gone(words, agent, { again = true } = {}) {
    if (agent) this.select.value = agent;
    const what = [words, again && !this.#may ? NOT_YOU : ""].filter(Boolean).join(" ");
    this.#show("The agent has left", what, "Start the agent again", true);
  }

  hide() {
    this.card.hidden = true;
    this.#starting = false;
    this.#onReturn = null;
  }

  #show(title, text, label, bad) {
    setText(byId("starter-title"), title);
    setText(byId("starter-text"), text);
    setText(this.button, label);
    setText(this.error, "");
    this.button.disabled = false;
    this.card.classList.toggle("bad", bad);
    byId("starter-form").hidden = !this.#may;
    byId("starter-choice").hidden = this.select.options.length < 2;
    this.card.hidden = false;
  }

  async #start({ metadata, tries = 1 } = {}) {
    if (this.#starting) return;
    this.#starting = this.button.disabled = true;
    setText(this.error, "");
    const label = this.button.textContent;
    setText(this.button, "Starting\u2026");
    try {
      const { invitation } = await this.#ask(metadata, tries);
      // The card goes when the agent comes, which the server tells.
      if (invitation) {
        keepToken(invitation);
        this.onInvitation();
      }
    } catch (error) {
      setText(this.error, error.message);
      setText(this.button, label);
      this.button.disabled = false;
    }
    this.#starting = false;
  }

  /** A server that has just started may have to warm up its agents first: 503. */
  async #ask(metadata, tries) {
    for (;;) {
      try {
        return await startAgent(this.select.value, metadata);
      } catch (error) {
        tries -= 1;
        if (error.status !== 503 || tries === 0 || this.card.hidden) throw error;
        await new Promise((resolve) => setTimeout(resolve, WARM_UP_PAUSE_MS));
      }
    }
  }
}

const WARM_UP_TRIES = 60;
const WARM_UP_PAUSE_MS = 1000;
const NOT_YOU = "Somebody who may start agents can start one; this page notices when it comes.";
