// The conversation as it is said. Rows are kept in the order in which they began, the oldest go when there are many.
//
// The list itself is no live region: words that grow would be read again and again. What is final is put into a region
// of its own, once.

import { byId, el, oncePerFrame, setText } from "./dom.js";
import { latencyLine } from "./latency.js";

const MOST_ROWS = 400;
const MOST_ANNOUNCEMENTS = 5;
const SAME_WORDS_MS = 5000; // the words of one person stand in the conversation of every agent
const LATENCY_WAITS_MS = 1500; // for the reply that it belongs to

export class Transcript {
  #rows = new Map(); // by message id
  #partials = new Map(); // by who speaks
  #tools = new Map();
  #latencies = []; // of turns whose reply has not begun
  #pinned = true;
  #scrollTop = 0;
  #plan = oncePerFrame(() => this.#pinned && this.toEnd());

  constructor(roster) {
    this.roster = roster;
    this.list = byId("transcript");
    this.live = byId("announcer");
    this.scroller = byId("transcript-scroll");
    this.latest = byId("latest");
    this.scroller.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.latest.addEventListener("click", () => this.toEnd());
    new ResizeObserver(this.#plan).observe(this.scroller);
  }

  // What is said

  /** A message of the room: `text` is all of it so far. */
  words(message) {
    const mine = message.role === "user" && this.roster.isMe(message);
    if (mine) this.#takeTyped(message);
    if (message.role === "user" && !this.#rows.has(message.message_id) && this.#isEcho(message)) return;
    const row = this.#rowOf(message);
    row.text = message.text;
    if (message.completed && !row.completed) {
      row.completed = true;
      this.announce(`${row.name}: ${message.text}`);
    }
    this.#write(row);
  }

  /** What recognition has so far of what somebody says; it may still change. */
  partial(data) {
    if (data.role === "assistant") return; // the room's words tell of those
    const who = data.participant_id || data.user_id;
    let row = this.#partials.get(who);
    if (!row) {
      row = this.#append({ ...data, role: "user", completed: false });
      this.#partials.set(who, row);
    }
    row.text = data.text;
    this.#write(row);
  }

  /** Final words that the room has not told: some models write them nowhere else. */
  message(data, agentId) {
    if (this.#rows.has(data.message_id)) return;
    const known = [...this.#rows.values()].slice(-12).some((row) => row.role === data.role && same(row.text, data.text));
    if (!known && data.text) this.words({ participant_id: "", ...data, agent_id: agentId, completed: true });
  }

  /** An agent was cut off: `heard` is the share of its words that had really been played. */
  interrupted({ message_id, heard }, agentId) {
    const row = this.#rows.get(message_id) ?? this.#lastOf(agentId);
    if (!row || row.heard !== undefined) return;
    row.heard = Math.max(0, Math.min(1, heard ?? 0));
    row.completed = true;
    this.announce(`${row.name} was interrupted.`);
    this.#write(row);
  }

  /** What was typed here, until the room tells it back; returns the row. */
  typed(id, text) {
    const row = this.#append({ role: "user", participant_id: this.roster.me?.participant_id, user_id: "", typed: id, name: "You" });
    row.text = text;
    this.#rows.set(id, row);
    this.#write(row);
    return row;
  }

  /** What was typed did not arrive. */
  notSent(id, why, retry) {
    const row = this.#rows.get(id);
    if (!row) return;
    row.root.classList.add("unsent");
    const again = el("button", { type: "button", on: { click: () => (this.#remove(row), retry(row.text)) } }, "Send again");
    row.root.append(el("p", { class: "row-foot error" }, `Not sent: ${why} `, again));
    this.#follow();
  }

  // What is done

  toolStarted({ tool_call_id, name, arguments: given }) {
    const summary = el("summary", {}, el("code", {}, `${name}(${brief(given)})`), " ", el("span", { class: "tool-state" }, "running"));
    const body = el("div", { class: "tool-body" }, el("h3", {}, "Arguments"), el("pre", {}, pretty(given)));
    const root = el("li", { class: "row tool", data: { tool: name, toolState: "running" } }, el("details", {}, summary, body));
    this.#tools.set(tool_call_id, { root, body, state: summary.querySelector(".tool-state") });
    this.#add(root);
  }

  toolEnded({ tool_call_id, name, ok, result, error, ms }) {
    if (!this.#tools.has(tool_call_id)) this.toolStarted({ tool_call_id, name, arguments: {} });
    const { root, body, state } = this.#tools.get(tool_call_id);
    this.#tools.delete(tool_call_id);
    root.dataset.toolState = ok ? "ok" : "failed";
    const time = Number.isFinite(ms) ? `, ${Math.round(ms)} ms` : "";
    setText(state, ok ? `\u2192 ${brief(result, 60)}${time}` : `failed${time}: ${error ?? "no reason given"}`);
    body.append(el("h3", {}, ok ? "Result" : "Error"), el("pre", {}, pretty(ok ? result : error)));
    this.#follow();
  }

  /** A small line about the call itself. */
  system(text, { level = "" } = {}) {
    this.#add(el("li", { class: `row system ${level}` }, text));
    this.announce(text);
  }

  /** The latency of a turn, under the reply that it led to. */
  turn(data, agentId) {
    const reply = this.#lastOf(agentId);
    const asked = this.#last((row) => row.role === "user");
    if (reply && !reply.latency && (!asked || reply.began >= asked.began)) {
      this.#putLatency(reply, data);
      return;
    }
    const waiting = { agentId, data };
    this.#latencies.push(waiting);
    setTimeout(() => {
      if (!this.#latencies.includes(waiting)) return;
      this.#latencies = this.#latencies.filter((each) => each !== waiting);
      this.#add(el("li", { class: "row system" }, latencyLine(data)));
    }, LATENCY_WAITS_MS);
  }

  /** Nothing more will be added to what is unfinished: the agent has left. */
  finish(agentId) {
    for (const row of this.#rows.values()) {
      if (row.agentId !== agentId || row.completed) continue;
      row.completed = true;
      this.#write(row);
    }
  }

  announce(text) {
    this.live.append(el("p", {}, text));
    while (this.live.children.length > MOST_ANNOUNCEMENTS) this.live.firstElementChild.remove();
  }

  toEnd() {
    this.scroller.scrollTop = this.scroller.scrollHeight;
    this.#pinned = true;
    this.latest.hidden = true;
  }

  // Within

  #rowOf(message) {
    const known = this.#rows.get(message.message_id);
    if (known) return known;
    let row = null;
    if (message.role === "user") row = this.#takePartial(message);
    row ??= this.#append(message);
    row.root.dataset.message = message.message_id;
    this.#rows.set(message.message_id, row);
    if (message.role === "assistant") this.#takeLatency(row);
    return row;
  }

  #append({ role, participant_id, user_id, agent_id, typed = "", name }) {
    const mine = role === "user" && this.roster.isMe({ participant_id, user_id });
    const shown = name ?? this.roster.nameOf({ role, participant_id, user_id, agent_id });
    const words = el("p", { class: "words" });
    const kind = role === "assistant" ? "from-agent" : mine || typed ? "from-me" : "from-other";
    const root = el("li", { class: `row said ${kind}` }, el("span", { class: "who" }, shown), words);
    const row = { root, words, role, name: shown, agentId: agent_id, userId: user_id, text: "", typed, began: performance.now() };
    this.#add(root, row);
    return row;
  }

  #write(row) {
    row.root.classList.toggle("partial", !row.completed);
    if (row.heard === undefined) {
      setText(row.words, row.text);
    } else {
      const cut = cutAt(row.text, row.heard);
      const rest = row.text.slice(cut);
      row.root.classList.add("interrupted");
      row.words.replaceChildren(row.text.slice(0, cut), rest ? el("s", { title: "Written, but not heard" }, rest) : "");
      if (!row.root.querySelector(".cut")) row.root.append(el("p", { class: "row-foot cut" }, "interrupted"));
    }
    this.#follow();
  }

  // The partial row of whoever now has final words becomes the row of these.
  #takePartial({ participant_id, user_id }) {
    const who = [participant_id, user_id].find((id) => id && this.#partials.has(id));
    const found = who ?? [...this.#partials].find(([, row]) => row.userId === user_id)?.[0];
    if (found === undefined) return null;
    const row = this.#partials.get(found);
    this.#partials.delete(found);
    return row;
  }

  #takeTyped(message) {
    const row = this.#last((each) => each.typed && !each.completed && each.text === message.text);
    if (!row || this.#rows.has(message.message_id)) return;
    this.#rows.delete(row.typed);
    row.typed = "";
    row.root.classList.remove("unsent");
    row.root.dataset.message = message.message_id;
    this.#rows.set(message.message_id, row);
  }

  #isEcho({ user_id, text, agent_id }) {
    if (!agent_id) return false;
    const now = performance.now();
    const first = this.#last((row) => row.role === "user" && row.userId === user_id && same(row.text, text) && row.completed);
    if (!first || first.agentId === agent_id || now - first.began > SAME_WORDS_MS) return false;
    this.#takePartial({ user_id })?.root.remove();
    return true;
  }

  #takeLatency(row) {
    const index = this.#latencies.findIndex((waiting) => waiting.agentId === row.agentId);
    if (index >= 0) this.#putLatency(row, this.#latencies.splice(index, 1)[0].data);
  }

  #putLatency(row, data) {
    row.latency = el("p", { class: "row-foot latency" }, latencyLine(data));
    row.root.append(row.latency);
    this.#follow();
  }

  #lastOf(agentId) {
    return this.#last((row) => row.role === "assistant" && (row.agentId === agentId || !agentId));
  }

  #last(matches) {
    // Of a list, not of the map: the page keeps hundreds of rows, and what is looked for is among the latest.
    for (let item = this.list.lastElementChild; item; item = item.previousElementSibling) {
      if (item.row && matches(item.row)) return item.row;
    }
    return null;
  }

  #add(root, row = null) {
    byId("transcript-empty").hidden = true;
    this.list.append(root);
    root.row = row;
    if (this.list.children.length > MOST_ROWS) this.#remove(this.list.firstElementChild.row, this.list.firstElementChild);
    this.#follow();
  }

  #remove(row, root = row.root) {
    root.remove();
    if (!row) return;
    for (const map of [this.#rows, this.#partials]) for (const [key, each] of map) if (each === row) map.delete(key);
  }

  #follow() {
    if (this.#pinned) this.#plan();
    else this.latest.hidden = false;
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    // Only who scrolls up leaves the end: words that come, and a drawer that opens, move it away from who is there.
    const atEnd = scrollHeight - scrollTop - clientHeight < 48;
    if (atEnd || scrollTop < this.#scrollTop) this.#pinned = atEnd;
    this.#scrollTop = scrollTop;
    if (atEnd) this.latest.hidden = true;
  }
}

const same = (one, other) => one.trim().toLowerCase() === (other ?? "").trim().toLowerCase();

/** Where to cut `text` so that `heard` of it stands before, at the end of a word. */
function cutAt(text, heard) {
  const exact = Math.round(text.length * heard);
  if (exact === 0 || exact >= text.length) return exact;
  const end = text.indexOf(" ", exact);
  return end < 0 ? text.length : end;
}

function pretty(value) {
  return typeof value === "string" ? value : JSON.stringify(value ?? null, null, 2);
}

function brief(value, most = 40) {
  if (value === null || value === undefined) return "";
  const entries = typeof value === "object" && !Array.isArray(value) ? Object.entries(value).map(([k, v]) => `${k}=${JSON.stringify(v)}`).join(", ") : null;
  const text = entries ?? (typeof value === "string" ? value : JSON.stringify(value));
  return text.length > most ? `${text.slice(0, most - 1)}\u2026` : text;
}
