// The left column: a tile for every agent, for oneself, and for the others, with levels of sound.

import { byId, el, oncePerFrame, setText } from "./dom.js";
import { share } from "./sound.js";

const STATES = {
  joining: "joining the call",
  waiting: "waiting",
  listening: "listening",
  thinking: "thinking",
  speaking: "speaking",
};

export class Tiles {
  #tiles = new Map();
  #video = null;
  #levels = { local: 0, remote: 0 };
  #plan = oncePerFrame(() => this.#draw());

  constructor(roster) {
    this.roster = roster;
    this.agents = byId("agents");
    this.others = byId("others");
    this.own = byId("own-tile");
    this.ownState = byId("own-state");
    this.now = byId("now");
    roster.addEventListener("change", () => this.render());
  }

  render() {
    const { agents, others } = this.roster;
    const here = new Set([...agents, ...others].map((person) => person.participant_id));
    for (const [id, tile] of this.#tiles) {
      if (here.has(id)) continue;
      tile.root.remove();
      this.#tiles.delete(id);
    }
    for (const agent of agents) this.#renderAgent(agent);
    for (const person of others) this.#renderPerson(person);
    byId("no-agents").hidden = agents.length > 0;
    byId("people-heading").hidden = others.length === 0;
    this.#renderNow();
    this.#attachVideo();
    this.#draw();
  }

  /** The agents' picture: the server sends one, of the first agent that publishes any. */
  setVideo(stream) {
    this.#video = stream;
    this.#attachVideo();
  }

  setOwnVideo(track) {
    const video = byId("own-video");
    video.hidden = !track;
    video.srcObject = track ? new MediaStream([track]) : null;
    if (track) video.play().catch(() => {});
  }

  setOwnState(text, { muted = false } = {}) {
    setText(this.ownState, text);
    this.own.classList.toggle("muted", muted);
  }

  /** `side` is "local" or "remote". Drawn at most once a frame. */
  setLevel(side, level) {
    this.#levels[side] = level;
    this.#plan();
  }

  #draw() {
    setMeter(this.own, this.#levels.local);
    for (const [id, tile] of this.#tiles) {
      const person = this.roster.find(id);
      setMeter(tile.root, person && this.roster.isAudible(person) ? this.#levels.remote : 0);
    }
  }

  #renderAgent(agent) {
    const tile = this.#tile(agent, this.agents, () => [
      el("video", { class: "picture", hidden: true, autoplay: true, playsInline: true, muted: true, "aria-label": `Video of ${agent.name}` }),
      el("p", { class: "tile-note", hidden: true }),
    ]);
    const state = this.roster.stateOf(agent);
    tile.root.dataset.agentState = state;
    setText(tile.state, STATES[state] ?? state);
    const note = tile.root.querySelector(".tile-note");
    setText(note, agent.session?.note ?? "");
    note.hidden = !note.textContent;
  }

  #renderPerson(person) {
    const tile = this.#tile(person, this.others, () => []);
    tile.root.classList.toggle("muted", Boolean(person.muted));
    tile.root.dataset.speaking = String(Boolean(person.speaking));
    setText(tile.state, person.muted ? "muted" : person.speaking ? "speaking" : "in the call");
  }

  #tile(person, list, more) {
    let tile = this.#tiles.get(person.participant_id);
    if (!tile) {
      const name = el("span", { class: "tile-name" });
      const state = el("span", { class: "tile-state" });
      const root = el(
        "li",
        { class: person.is_agent ? "tile agent" : "tile person", data: { participant: person.participant_id } },
        el("span", { class: "avatar", "aria-hidden": "true" }),
        el("span", { class: "tile-words" }, name, state),
        el("span", { class: "meter", "aria-hidden": "true" }, el("span")),
        ...more(),
      );
      tile = { root, name, state };
      this.#tiles.set(person.participant_id, tile);
      list.append(root);
    }
    setText(tile.name, person.name || person.user_id || "Somebody");
    setText(tile.root.querySelector(".avatar"), initial(person.name || person.user_id));
    return tile;
  }

  #renderNow() {
    const { agent } = this.roster;
    setText(this.now, agent ? `${agent.name}: ${STATES[this.roster.stateOf(agent)] ?? ""}` : "");
    this.now.dataset.agentState = agent ? this.roster.stateOf(agent) : "";
  }

  #attachVideo() {
    const publishes = (agent) => agent.publishes_video ?? agent.session?.publishes_video;
    const shown = this.roster.agents.find(publishes) ?? this.roster.agent;
    for (const agent of this.roster.agents) {
      const video = this.#tiles.get(agent.participant_id)?.root.querySelector("video");
      if (!video) continue;
      const stream = agent === shown ? this.#video : null;
      if (video.srcObject !== stream) video.srcObject = stream;
      video.hidden = stream === null;
      if (stream) video.play().catch(() => {});
    }
  }
}

function setMeter(tile, level) {
  tile.style.setProperty("--level", share(level).toFixed(2));
}

const initial = (name) => [...(name || "?")][0].toUpperCase();
