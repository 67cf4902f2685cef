// The parts of a turn's latency, in the order in which they pass, and a turn as one line.

import { el } from "./dom.js";

export const SLOW_MS = 1000;
export const PARTS = [
  { key: "end_of_turn_ms", name: "end of turn" },
  { key: "recognition_ms", name: "recognition" },
  { key: "model_ms", name: "model" },
  { key: "voice_ms", name: "voice" },
];

/** What a turn took, as a line: parts that are not known are left out. */
export function latencyLine(turn) {
  const parts = PARTS.filter(({ key }) => Number.isFinite(turn[key])).map(({ key, name }) => `${name} ${Math.round(turn[key])}`);
  const total = Math.round(turn.total_ms);
  const slow = turn.total_ms > SLOW_MS;
  return el(
    "span",
    { class: "latency-parts", data: { slow: String(slow), total: String(total) } },
    parts.length ? `${parts.join(" \u00b7 ")} \u2014 ` : "",
    el("strong", { class: slow ? "slow" : "" }, `${total} ms${slow ? ", slow" : ""}`),
  );
}
