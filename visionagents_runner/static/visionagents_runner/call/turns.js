// The drawer's Turns: a bar for each, stacked from what the waiting was for, and a trend of the totals above them.

import { byId, el, oncePerFrame } from "./dom.js";
import { PARTS, SLOW_MS } from "./latency.js";

const MOST = 60;
const SVG = "http://www.w3.org/2000/svg";

export class Turns {
  #turns = [];
  #count = 0;
  #shown = false;
  #plan = oncePerFrame(() => this.#render());

  constructor() {
    this.list = byId("turns");
    this.trend = byId("turns-trend");
    this.summary = byId("turns-summary");
    new ResizeObserver(this.#plan).observe(this.trend);
  }

  add(turn, agentName) {
    if (!Number.isFinite(turn.total_ms)) return;
    this.#turns.push({ ...turn, agentName, number: ++this.#count });
    if (this.#turns.length > MOST) this.#turns.shift();
    this.#plan();
  }

  show(shown) {
    this.#shown = shown;
    this.#plan();
  }

  #render() {
    if (!this.#shown) return;
    byId("turns-empty").hidden = this.#turns.length > 0;
    byId("turns-filled").hidden = this.#turns.length === 0;
    if (!this.#turns.length) return;
    const totals = this.#turns.map((turn) => turn.total_ms);
    const scale = 1.1 * Math.max(SLOW_MS, ...totals);
    this.list.replaceChildren(...this.#turns.map((turn) => row(turn, scale)).reverse());
    this.list.style.setProperty("--second", String(SLOW_MS / scale));
    const sorted = [...totals].sort((a, b) => a - b);
    const median = sorted[Math.floor((sorted.length - 1) / 2)];
    const slow = totals.filter((total) => total > SLOW_MS).length;
    this.summary.textContent = `${this.#count} turns, median ${Math.round(median)} ms, ${slow} over 1 s`;
    this.#drawTrend(totals, scale);
  }

  #drawTrend(totals, scale) {
    const width = this.trend.clientWidth || 600;
    const height = this.trend.clientHeight || 38;
    this.trend.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const x = (index) => (totals.length === 1 ? width / 2 : (index / (totals.length - 1)) * (width - 12) + 6);
    const y = (total) => height - 4 - (total / scale) * (height - 8);
    const line = svg("polyline", { points: totals.map((total, index) => `${x(index)},${y(total)}`).join(" "), class: "trend-line" });
    const limit = svg("line", { x1: 0, x2: width, y1: y(SLOW_MS), y2: y(SLOW_MS), class: "trend-limit" });
    const dots = totals.map((total, index) => svg("circle", { cx: x(index), cy: y(total), r: 3, class: total > SLOW_MS ? "slow" : "" }));
    this.trend.replaceChildren(limit, line, ...dots);
  }
}

function row(turn, scale) {
  const slow = turn.total_ms > SLOW_MS;
  const known = PARTS.filter(({ key }) => turn[key] > 0);
  const rest = turn.total_ms - known.reduce((sum, { key }) => sum + turn[key], 0);
  const parts = [...known.map(({ key, name }) => ({ name, ms: turn[key], kind: key })), ...(rest > 1 ? [{ name: "not known", ms: rest, kind: "unknown" }] : [])];
  const words = `${parts.map(({ name, ms }) => `${name} ${Math.round(ms)} ms`).join(", ")}; ${Math.round(turn.total_ms)} ms in all`;
  const bar = el("span", { class: "bar", role: "img", "aria-label": words, title: words });
  for (const { ms, kind } of parts) {
    const piece = el("span", { class: `part ${kind}` });
    piece.style.width = `${(ms / scale) * 100}%`;
    if (ms / scale > 0.06) piece.textContent = String(Math.round(ms));
    bar.append(piece);
  }
  return el(
    "li",
    { class: slow ? "turn slow" : "turn", data: { total: String(Math.round(turn.total_ms)) } },
    el("span", { class: "turn-name" }, `${turn.number} \u00b7 ${turn.how === "text" ? "typed" : "spoken"}${turn.interrupted ? " \u00b7 cut" : ""}`),
    bar,
    el("strong", { class: "turn-total" }, `${Math.round(turn.total_ms)} ms`),
  );
}

function svg(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}
