// The right column: the connection, the session, who is here, and invitations.

import { byId, copyFrom, el, setText } from "./dom.js";
import { invite } from "./rest.js";
import { share } from "./sound.js";

const MEASURE_MS = 2000;
const NAMES = { webrtc: "WebRTC", websocket: "WebSocket", text: "Text only" };

export class Panel {
  #session = null;
  #media = null;
  #timer = 0;
  #before = { lost: 0, received: 0 };
  #rtt = null;

  constructor(roster) {
    this.roster = roster;
    this.status = byId("status");
    roster.addEventListener("change", () => this.#render());
    byId("copy-session").addEventListener("click", ({ currentTarget }) => copyFrom(currentTarget, this.#session.session_id));
    byId("copy-invite").addEventListener("click", ({ currentTarget }) => copyFrom(currentTarget, byId("invite-url").value));
    byId("invite").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#invite();
    });
  }

  // The connection

  setTransport(transport, state) {
    this.#before = { lost: 0, received: 0 };
    for (const id of ["loss", "jitter"]) setText(byId(id), "\u2013");
    this.status.dataset.transport = transport ?? "none";
    this.status.dataset.media = state;
    const name = NAMES[transport] ?? "Not connected";
    setText(byId("loss-name"), transport === "websocket" ? "Gaps" : "Loss");
    setText(byId("jitter-name"), transport === "websocket" ? "Dropped" : "Jitter");
    setText(byId("transport"), state === "connecting" ? `${name}, connecting` : name);
  }

  /** The server's own measure of the round trip; WebRTC has a better one. */
  setRoundTrip(ms) {
    this.#rtt = ms;
    if (this.status.dataset.transport !== "webrtc") this.#showRoundTrip(ms);
  }

  watch(media) {
    this.#media = media;
    clearInterval(this.#timer);
    this.#timer = setInterval(() => document.hidden || this.measure(), MEASURE_MS);
  }

  stop() {
    clearInterval(this.#timer);
    for (const id of ["round-trip", "loss", "jitter"]) setText(byId(id), "\u2013");
    this.status.dataset.transport = "none";
    setText(byId("transport"), "Not connected");
  }

  /** Read the transport's counters; tests read them from the data attributes. */
  async measure() {
    const found = await this.#media.measure().catch(() => ({}));
    for (const [name, value] of Object.entries(found)) this.status.dataset[name.replace(/_(.)/g, (_, c) => c.toUpperCase())] = String(value);
    const rtt = found.rtt_ms ?? this.#rtt ?? found.answered_ms;
    if (rtt !== undefined) this.#showRoundTrip(rtt);
    if (found.received !== undefined) {
      const lost = found.lost - this.#before.lost;
      const all = lost + found.received - this.#before.received;
      this.#before = { lost: found.lost, received: found.received };
      setText(byId("loss"), all > 0 ? `${Math.max(0, (lost / all) * 100).toFixed(1)} %` : "0.0 %");
      setText(byId("jitter"), `${Math.round(found.jitter_ms)} ms`);
    } else if (found.gaps !== undefined) {
      setText(byId("loss"), String(found.gaps));
      setText(byId("jitter"), `${Math.round(found.droppedSeconds * 1000)} ms`);
    }
  }

  /** The level of what plays, kept as the loudest since the page read it last. */
  heard(level) {
    if (level > Number(this.status.dataset.peak ?? 0)) this.status.dataset.peak = level.toFixed(4);
    byId("speaker-level").style.setProperty("--level", share(level).toFixed(2));
  }

  #showRoundTrip(ms) {
    this.status.dataset.rttMs = String(ms);
    setText(byId("round-trip"), `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`);
  }

  // The session

  #render() {
    const session = this.roster.agent?.session ?? null;
    this.#renderPeople();
    byId("session-empty").hidden = session !== null;
    byId("session").hidden = session === null;
    byId("invite").hidden = session === null || this.roster.me?.role === "listener";
    if (session === null || same(session, this.#session)) return;
    if (session.session_id !== this.#session?.session_id) this.#clearInvitation();
    this.#session = session;
    setText(byId("session-id"), session.session_id);
    setText(byId("session-agent"), session.agent_name ? `${session.agent_name} (${session.agent})` : session.agent);
    // A silent voice is none.
    const models = Object.entries(session.models ?? {}).filter(([, name]) => name && !/^silent\b/.test(name));
    byId("session-models").replaceChildren(...models.flatMap(([kind, name]) => [el("dt", {}, MODELS[kind] ?? kind), el("dd", {}, name)]));
    setText(byId("session-started"), session.started_at ? new Date(session.started_at).toLocaleTimeString() : "not yet");
    const metadata = session.metadata && Object.keys(session.metadata).length > 0;
    byId("metadata").hidden = !metadata;
    if (metadata) setText(byId("metadata-json"), JSON.stringify(session.metadata, null, 2));
  }

  #renderPeople() {
    const { me, agents, others } = this.roster;
    const rows = me && agents.length + others.length >= 0 ? [`${me.name || "You"} (you)`, ...agents.map(agentLine), ...others.map((person) => person.name || person.user_id)] : [];
    byId("people").replaceChildren(...rows.map((text) => el("li", {}, text)));
    byId("people-empty").hidden = rows.length > 0;
  }

  // Invitations

  async #invite() {
    const button = byId("make-invite");
    const error = byId("invite-error");
    button.disabled = true;
    error.textContent = "";
    try {
      const made = await invite(this.#session.session_id, byId("invite-role").value, byId("invite-name").value.trim());
      const url = byId("invite-url");
      url.value = new URL(made.url, location.href).href;
      byId("invite-made").hidden = false;
      const until = new Date(made.expires_at);
      setText(byId("invite-until"), `For whoever has it, until ${until.toLocaleString()}, or until the session ends.`);
      url.focus();
      url.select();
    } catch (failure) {
      error.textContent = failure.message;
    } finally {
      button.disabled = false;
    }
  }

  #clearInvitation() {
    byId("invite-made").hidden = true;
    byId("invite-url").value = "";
  }
}

const MODELS = { llm: "Model", stt: "Recognition", tts: "Voice" };
const agentLine = (agent) => `${agent.name} (agent${agent.here ? "" : ", joining"})`;
const same = (one, other) => JSON.stringify(one) === JSON.stringify(other);
