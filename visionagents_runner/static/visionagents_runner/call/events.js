// The drawer's Events: what happened, newest last, with a filter, and to copy as JSON.

import { byId, copyFrom, el, oncePerFrame } from "./dom.js";

const MOST = 500;

export class Events {
  #entries = [];
  #kinds = new Set();
  #atEnd = true;
  #plan = oncePerFrame(() => this.#render());

  constructor() {
    this.list = byId("events");
    this.search = byId("events-search");
    this.kind = byId("events-kind");
    this.search.addEventListener("input", () => this.#filter());
    this.kind.addEventListener("change", () => this.#filter());
    this.list.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    byId("events-copy").addEventListener("click", ({ currentTarget }) => {
      const shown = this.#entries.filter((entry) => !entry.row.hidden).map(asJson);
      copyFrom(currentTarget, JSON.stringify(shown, null, 2));
    });
  }

  add(kind, text, data = {}, agentId = "") {
    const entry = { at: new Date(), kind, text, data, agent_id: agentId };
    const copy = el("button", { type: "button", class: "quiet", "aria-label": `Copy ${kind} as JSON` }, "JSON");
    copy.addEventListener("click", () => copyFrom(copy, JSON.stringify(asJson(entry), null, 2)));
    entry.row = el(
      "li",
      { data: { kind } },
      el("time", { dateTime: entry.at.toISOString() }, clock(entry.at)),
      el("span", { class: `chip ${family(kind)}` }, kind.replaceAll("_", " ")),
      el("span", { class: "event-text" }, text),
      copy,
    );
    entry.row.hidden = !this.#matches(entry);
    this.#entries.push(entry);
    this.list.append(entry.row);
    if (this.#entries.length > MOST) this.#entries.shift().row.remove();
    this.#knowKind(kind);
    this.#plan();
  }

  /** To be called when the list can be seen: while it could not, it did not scroll. */
  show() {
    this.#plan();
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.list;
    this.#atEnd = scrollHeight - scrollTop - clientHeight < 32;
  }

  #knowKind(kind) {
    if (this.#kinds.has(kind)) return;
    this.#kinds.add(kind);
    const after = [...this.kind.options].slice(1).find((option) => option.value > kind);
    this.kind.add(new Option(kind.replaceAll("_", " "), kind), after ?? null);
  }

  #matches({ kind, text, data }) {
    if (this.kind.value && this.kind.value !== kind) return false;
    const wanted = this.search.value.trim().toLowerCase();
    return !wanted || `${kind} ${text} ${JSON.stringify(data)}`.toLowerCase().includes(wanted);
  }

  #filter() {
    for (const entry of this.#entries) entry.row.hidden = !this.#matches(entry);
    this.#plan();
  }

  #render() {
    if (this.#atEnd) this.list.scrollTop = this.list.scrollHeight;
    const none = this.#entries.every((entry) => entry.row.hidden);
    const empty = byId("events-empty");
    empty.hidden = !none;
    empty.textContent = this.#entries.length ? "No event matches the filter." : empty.dataset.nothing;
  }
}

const asJson = ({ at, kind, text, data, agent_id }) => ({ at: at.toISOString(), kind, text, data, agent_id });

const clock = (at) => at.toLocaleTimeString([], { hour12: false }) + `.${String(at.getMilliseconds()).padStart(3, "0")}`;

function family(kind) {
  if (kind === "error") return "bad";
  if (kind.startsWith("tool") || kind === "interrupted") return "tool";
  if (kind.startsWith("user") || kind.startsWith("participant")) return "person";
  return kind.startsWith("agent") ? "agent" : "";
}

/** A happening in a few words. */
export function describe(kind, data, nameOf) {
  const who = nameOf(data);
  switch (kind) {
    case "agent_joined":
    case "agent_left":
    case "agent_turn_started":
      return "";
    case "agent_turn_ended":
      return data.interrupted ? "interrupted" : "";
    case "participant_joined":
    case "participant_left":
    case "user_turn_started":
    case "user_turn_ended":
      return who;
    case "message":
      return `${who}: ${data.text}`;
    case "tool_started":
      return `${data.name} ${JSON.stringify(data.arguments ?? {})}`;
    case "tool_ended":
      return `${data.name} ${data.ok ? `\u2192 ${JSON.stringify(data.result)}` : `failed: ${data.error}`} (${Math.round(data.ms ?? 0)} ms)`;
    case "turn":
      return `${data.how}, ${Math.round(data.total_ms)} ms${data.interrupted ? ", interrupted" : ""}`;
    case "interrupted":
      return `${Math.round((data.heard ?? 0) * 100)} % of the reply was heard`;
    case "error":
      return [data.component, data.message].filter(Boolean).join(": "); // guests are not told the message
    case "connection":
      return [data.component, data.state, data.reason].filter(Boolean).join(", ");
    default:
      return JSON.stringify(data.data ?? data);
  }
}
