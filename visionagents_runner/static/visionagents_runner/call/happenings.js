// What comes from the server, given to the parts of the page that show it.

import { describe } from "./events.js";

const NOT_LISTED = new Set(["partial", "state"]); // many a second, and shown elsewhere as they come

export class Happenings {
  #lastAgent = null;

  constructor({ roster, transcript, events, turns, waves, drawer, starter, notices, panel }) {
    Object.assign(this, { roster, transcript, events, turns, waves, drawer, starter, notices, panel });
    roster.addEventListener("joined", ({ detail }) => this.#came(detail));
    roster.addEventListener("left", ({ detail }) => this.#went(detail));
  }

  listen(link) {
    const on = (type, take) => link.addEventListener(type, ({ detail }) => take(detail));
    on("presence", (message) => this.roster.presence(message));
    on("words", (message) => this.transcript.words(message));
    on("speaking", (message) => this.roster.speaking(message));
    on("happening", ({ kind, data = {}, agent_id }) => this.happening(kind, data, agent_id));
    on("custom", (message) => this.custom(message));
    on("session", (message) => this.#sessionEnded(message));
    on("ping", ({ rtt_ms }) => Number.isFinite(rtt_ms) && this.panel.setRoundTrip(rtt_ms));
    on("error", (message) => this.#error(message));
  }

  happening(kind, data, agentId) {
    if (kind === "state") this.roster.state(agentId, data.state);
    else if (kind === "partial") this.transcript.partial(data);
    else if (kind === "message") this.transcript.message(data, agentId);
    else if (kind === "interrupted") this.#interrupted(data, agentId);
    else if (kind === "tool_started") this.transcript.toolStarted(data);
    else if (kind === "tool_ended") this.transcript.toolEnded(data);
    else if (kind === "turn") this.#turn(data, agentId);
    else if (kind === "error") this.transcript.system(errorWords(data), { level: "bad" });
    if (NOT_LISTED.has(kind)) return;
    this.log(kind, describe(kind, data, (who) => this.#nameOf(who, agentId)), data, agentId);
  }

  custom({ data, agent_id }) {
    this.log("custom", JSON.stringify(data), data, agent_id);
  }

  /** List something as an event; also what this page itself does. */
  log(kind, text, data = {}, agentId = "") {
    this.events.add(kind, text, data, agentId);
    this.drawer.begin();
  }

  #nameOf(data, agentId) {
    const role = data.role ?? (data.user_id || data.participant_id ? "user" : "assistant");
    return this.roster.nameOf({ ...data, role, agent_id: agentId });
  }

  #interrupted(data, agentId) {
    this.transcript.interrupted(data, agentId);
    this.waves.mark("interrupted");
  }

  #turn(data, agentId) {
    this.transcript.turn(data, agentId);
    this.turns.add(data, this.roster.find(agentId)?.name ?? "");
  }

  #came(person) {
    this.transcript.system(`${person.name || person.user_id} joined`);
    if (person.is_agent) this.starter.hide();
  }

  #went(person) {
    this.transcript.system(`${person.name || person.user_id} left`);
    if (!person.is_agent) return;
    this.#lastAgent = person;
    this.transcript.finish(person.participant_id);
    if (this.roster.agents.length === 0) this.starter.gone("", person.session?.agent);
  }

  #sessionEnded({ session_id, agent_id, status, end_reason, end_words, code_changes }) {
    // It is told that the agent leaves and that its session ends, in either order.
    const isIts = (person) => person?.session?.session_id === session_id;
    const session = [...this.roster.agents, this.#lastAgent].find(isIts)?.session;
    this.roster.ended(session_id);
    this.log("session", end_words || end_reason || status, { session_id, status, end_reason }, agent_id);
    if (this.roster.agents.length > 0) return;
    this.starter.gone(end_words, session?.agent);
    // Of several people each page would start one.
    if (code_changes && session && this.roster.others.length === 0) this.starter.startOnReturn(session);
  }

  #error({ code, detail, id }) {
    this.log("error", `page: ${detail || code}`, { code, detail });
    // What was typed and refused says so at its row; what media could not do, the transport.
    if (id || code === "no_media" || code === "bad_offer") return;
    this.notices.show(code, detail, { without: ["join"] });
  }
}

const PARTS = { llm: "model", stt: "recognition", tts: "voice" };

function errorWords({ component, message }) {
  const part = PARTS[component] ?? component ?? "agent";
  return `Error in the ${part}${message ? `: ${message}` : ""}`; // guests are not told the message
}
