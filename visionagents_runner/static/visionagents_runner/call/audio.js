// The drawer's Audio: how loud both sides were, on one time line, with interruptions marked.

import { byId, oncePerFrame } from "./dom.js";
import { share } from "./sound.js";

const STEP_MS = 50;
const KEPT_MS = 10 * 60_000; // 12,000 steps of two bytes: a long call needs no more memory than a short one
const STEPS = KEPT_MS / STEP_MS;
const MOST_MARKS = 200;
const JITTER_STEPS = 3;

export class Waves {
  #levels = { local: new Uint8Array(STEPS), remote: new Uint8Array(STEPS) };
  #latest = -1; // the last step that was written, counted from the start of the page
  #next = { local: 0, remote: 0 };
  #marks = [];
  #shown = false;
  #plan = oncePerFrame(() => this.#draw());

  constructor() {
    this.canvas = byId("waves");
    this.span = byId("waves-span");
    this.text = byId("waves-text");
    this.span.addEventListener("change", () => this.#draw());
    new ResizeObserver(() => this.#draw()).observe(this.canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.#draw());
  }

  add(side, level) {
    // Levels come every 50 ms on average, some late and then two at once: each has its place in the row.
    const now = Math.floor(performance.now() / STEP_MS);
    const step = Math.abs(this.#next[side] - now) <= JITTER_STEPS ? this.#next[side] : now;
    this.#next[side] = step + 1;
    for (let empty = Math.max(this.#latest + 1, step - STEPS + 1); empty <= step; empty++) {
      this.#levels.local[empty % STEPS] = this.#levels.remote[empty % STEPS] = 0;
    }
    this.#latest = Math.max(this.#latest, step);
    const levels = this.#levels[side];
    levels[step % STEPS] = Math.max(levels[step % STEPS], Math.round(share(level) * 255));
    this.#plan();
  }

  mark(kind) {
    this.#marks.push({ step: Math.floor(performance.now() / STEP_MS), kind });
    if (this.#marks.length > MOST_MARKS) this.#marks.shift();
    this.text.textContent = `${this.#marks.length} interruptions so far.`;
  }

  show(shown) {
    this.#shown = shown;
    if (shown) this.#draw();
  }

  #draw() {
    if (!this.#shown) return;
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width || !height) return;
    const ratio = devicePixelRatio || 1;
    if (this.canvas.width !== Math.round(width * ratio) || this.canvas.height !== Math.round(height * ratio)) {
      this.canvas.width = Math.round(width * ratio);
      this.canvas.height = Math.round(height * ratio);
    }
    const context = this.canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    const style = getComputedStyle(this.canvas);
    const colour = (name) => style.getPropertyValue(name).trim();
    const steps = Number(this.span.value) * (1000 / STEP_MS);
    const plot = { left: 0, width, height: height - 18, steps, last: Math.floor(performance.now() / STEP_MS) };
    this.#grid(context, plot, colour("--line"), colour("--muted"));
    this.#wave(context, plot, "local", -1, colour("--wave-local"));
    this.#wave(context, plot, "remote", 1, colour("--wave-remote"));
    this.#drawMarks(context, plot, colour("--tool"));
  }

  // Upwards the one who speaks here, downwards what is heard: so both can be seen at one moment.
  #wave(context, { width, height, steps, last }, side, direction, colour) {
    const middle = height / 2;
    const step = width / steps;
    context.fillStyle = colour;
    for (let back = 0; back < Math.min(steps, STEPS); back++) {
      const at = last - back;
      if (at < 0 || at > this.#latest || at <= this.#latest - STEPS) continue;
      const tall = (this.#levels[side][at % STEPS] / 255) * (middle - 4);
      if (tall < 0.5) continue;
      const x = width - (back + 1) * step;
      context.fillRect(x, direction < 0 ? middle - tall : middle, Math.max(step - 0.5, 0.75), tall);
    }
  }

  #grid(context, { width, height, steps }, line, muted) {
    const seconds = (steps * STEP_MS) / 1000;
    const every = seconds <= 30 ? 5 : seconds <= 120 ? 15 : 60;
    context.font = "11px system-ui, sans-serif";
    context.textAlign = "center";
    context.strokeStyle = line;
    context.fillStyle = muted;
    context.lineWidth = 1;
    for (let back = every; back < seconds; back += every) {
      const x = Math.round(width - (back / seconds) * width) + 0.5;
      context.beginPath();
      context.moveTo(x, 0);
      context.lineTo(x, height);
      context.stroke();
      context.fillText(back < 60 ? `${back} s ago` : `${back / 60} min ago`, x, height + 14);
    }
    context.beginPath();
    context.moveTo(0, Math.round(height / 2) + 0.5);
    context.lineTo(width, Math.round(height / 2) + 0.5);
    context.stroke();
  }

  #drawMarks(context, { width, height, steps, last }, colour) {
    context.strokeStyle = context.fillStyle = colour;
    context.textAlign = "left";
    context.lineWidth = 2;
    for (const { step, kind } of this.#marks) {
      const x = width - ((last - step) / steps) * width;
      if (x < 0) continue;
      context.beginPath();
      context.moveTo(x, 0);
      context.lineTo(x, height);
      context.stroke();
      context.fillText(kind, x + 4, 12);
    }
  }
}
