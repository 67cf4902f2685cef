// The call as a whole: its state, the buttons of the header, and what happens when it is joined, breaks and ends.
//
// `data-state` of the document is one of: ready, joining, joined, reconnecting, left, failed.

import { byId, setText } from "./dom.js";
import { isFinal } from "./problems.js";
import { Media } from "./media.js";
import { forceWebSocket, recall, remember, voiceHint } from "./settings.js";

const root = document.documentElement;

export class Call {
  #withSound = false;
  #link = null;
  #welcome = null;
  #since = 0;

  constructor(parts) {
    Object.assign(this, parts);
    this.name = byId("own-name");
    this.name.value = recall("name");
    this.name.addEventListener("change", () => remember("name", this.name.value.trim()));
    byId("join").addEventListener("click", () => this.join({ sound: true }));
    byId("mute").addEventListener("click", () => this.mute());
    byId("camera").addEventListener("click", () => this.switchCamera());
    byId("leave").addEventListener("click", () => this.leave());
    this.connection.addEventListener("joined", ({ detail }) => this.#joined(detail));
    this.connection.addEventListener("moved", ({ detail }) => this.#moved(detail));
    this.connection.addEventListener("broken", ({ detail }) => this.#broke(detail));
    this.connection.addEventListener("failed", ({ detail }) => {
      // Who was in had a good invitation: it is the session that is over.
      this.#fail(detail.code === "void_token" ? "session_ended" : detail.code, detail.detail);
    });
    this.inputs.addEventListener("change", () => this.#render());
    this.media.addEventListener("transport", ({ detail }) => this.#transport(detail));
    this.roster.addEventListener("change", () => this.#renderHint());
    this.starter.onInvitation = () => this.#joinInvited();
    setInterval(() => this.#tick(), 1000);
    this.#setState("ready");
    if (document.activeElement === document.body) byId("join").focus(); // Enter is enough
  }

  get state() {
    return root.dataset.state;
  }

  get isIn() {
    return this.state === "joined" || this.state === "reconnecting";
  }

  /** Join, with the microphone or by text alone; in the call, add the sound. To be called while a click is handled. */
  async join({ sound = true } = {}) {
    if (this.state === "joining") return;
    if (sound) this.sound.unlock();
    if (this.isIn) {
      if (sound && !this.#withSound) await this.#addSound();
      return;
    }
    this.notices.clearAll();
    this.starter.hide();
    this.#withSound = sound;
    this.#setState("joining");
    // Before the server is told: an agent greets whoever has come, and the browser may be asking for a while.
    if (sound && Media.possible) {
      await this.inputs.openMicrophone();
      this.devices.refresh();
    }
    if (this.state !== "joining") return; // left meanwhile
    try {
      await this.connection.join(this.name.value.trim());
    } catch (error) {
      if (this.state === "joining") this.#fail(error.code, error.detail);
    }
  }

  /** Nobody here knows who we are: the server lets us out when our agent comes, and in again by its invitation. */
  async #joinInvited() {
    if (this.isIn) {
      this.connection.leave();
      this.#end("left");
    }
    await this.join({ sound: this.#withSound });
  }

  leave() {
    if (!this.isIn && this.state !== "joining") return;
    const was = this.isIn;
    this.connection.leave();
    this.#end("left");
    if (was) this.transcript.system("You left");
    byId("join").focus();
  }

  mute(muted = !this.inputs.muted) {
    if (!this.inputs.microphone) return;
    this.inputs.mute(muted);
    this.#link?.send({ type: "mute", muted });
    this.transcript.announce(muted ? "Microphone muted" : "Microphone on");
  }

  async switchCamera() {
    if (byId("camera").disabled) return;
    if (this.inputs.camera) {
      this.inputs.closeCamera();
      return;
    }
    const taken = await this.inputs.openCamera();
    if (this.inputs.camera && !taken) this.transcript.system("No agent in this call takes video now: only you see your camera");
  }

  async tryMicrophone() {
    this.sound.unlock();
    if (!(await this.inputs.openMicrophone())) return;
    this.devices.refresh();
    if (this.isIn && !this.#withSound) await this.#addSound();
  }

  async chooseDevice(kind, deviceId) {
    if (kind === "audiooutput") await this.sound.setSink(deviceId);
    else if (kind === "audioinput" && this.inputs.microphone) await this.inputs.openMicrophone();
    else if (kind === "videoinput" && this.inputs.camera) await this.inputs.openCamera();
  }

  /** The page goes away: say so, instead of leaving the others to find out. */
  vanish() {
    this.connection.leave();
    if (this.isIn || this.state === "joining") this.#end("left");
  }

  // What the connection tells

  async #joined({ link, welcome, again }) {
    this.#link = link;
    this.#welcome = welcome;
    const speaks = welcome.role !== "listener";
    this.notices.clear("reconnecting", "going_away");
    this.roster.begin(welcome);
    this.happenings.listen(link);
    this.#setState("joined");
    if (!again) this.#since = Date.now();
    this.#tick();
    this.transcript.system(again ? "You are in the call again" : `You joined${welcome.name ? ` as ${welcome.name}` : ""}`);
    this.starter.allow(welcome.may_start, welcome.agents ?? []);
    if ((welcome.sessions ?? []).length === 0) this.starter.nobodyYet();
    this.composer.connect(link, { limits: welcome.limits, speaks });
    if (!speaks) this.inputs.close();
    if (this.inputs.muted) link.send({ type: "mute", muted: true });
    if (this.#withSound) await this.#startMedia();
    else this.panel.setTransport("text", "none");
  }

  /** The agent has come to another process of the server, and we were led there: to another room, of other people. */
  async #moved({ link, welcome }) {
    this.#welcome = welcome;
    this.roster.begin(welcome);
    this.happenings.log("connection", "moved to where the agent is");
    this.starter.allow(welcome.may_start, welcome.agents ?? []);
    if ((welcome.sessions ?? []).length === 0) this.starter.nobodyYet();
    else this.starter.hide();
    if (this.inputs.muted) link.send({ type: "mute", muted: true });
    if (this.#withSound) await this.#startMedia();
  }

  #broke({ code }) {
    this.#link = null;
    this.media.stop();
    this.composer.disconnect();
    this.#setState("reconnecting");
    this.notices.show(code === "going_away" ? "going_away" : "reconnecting");
    this.happenings.log("connection", "the connection broke, joining again", { code });
  }

  #fail(code, detail) {
    this.#end("failed");
    this.composer.giveUp("this page is not in the call.");
    this.notices.clearAll(); // without a call there is no need for a microphone
    // "sign_in" and the like offer no other try: the answer would be the same.
    this.notices.show(code, detail, { without: isFinal(code) && code === "too_fast" ? ["join"] : [] });
  }

  #end(state) {
    this.#link = null;
    this.media.stop();
    this.inputs.close();
    this.sound.close();
    this.panel.stop();
    this.roster.clear();
    this.starter.hide();
    this.composer.disconnect();
    this.composer.setUsable(true);
    this.notices.clear("reconnecting", "going_away", "speaker_blocked");
    this.#setState(state);
  }

  // Sound

  async #addSound() {
    this.#withSound = true;
    if (this.#welcome.role !== "listener" && !this.inputs.microphone) {
      await this.inputs.openMicrophone();
      this.devices.refresh();
    }
    if (this.state === "joined") await this.#startMedia();
    this.#render();
  }

  async #startMedia() {
    if (!Media.possible) {
      this.notices.show("old_browser");
      return;
    }
    const { ice_servers: iceServers = [], role } = this.#welcome;
    this.panel.watch(this.media);
    await this.media.start(this.#link, { iceServers, speaks: role !== "listener", forceWebSocket });
  }

  #transport({ transport, state, why }) {
    root.dataset.transport = transport ?? "none";
    root.dataset.media = state;
    this.panel.setTransport(transport ?? (this.#link ? "text" : null), state);
    if (transport === "websocket" && state === "connected") {
      if (this.inputs.camera) {
        this.inputs.closeCamera();
        this.notices.show("camera_needs_webrtc");
      }
      this.transcript.system(`Sound goes over the WebSocket: ${why}`);
    }
    if (state === "connected") {
      this.panel.measure();
      this.happenings.log("connection", [transport, why].filter(Boolean).join(", "), { transport, why });
    }
    if (state === "none" && why && this.isIn) this.notices.show("no_media", why);
    this.#render();
  }

  // The view

  #setState(state) {
    root.dataset.state = state;
    this.name.disabled = !["ready", "left", "failed"].includes(state);
    setText(byId("call-state"), STATES[state]);
    this.#render();
  }

  #render() {
    const { state } = this;
    const { microphone, camera, muted } = this.inputs;
    const listener = this.isIn && this.#welcome?.role === "listener";
    const join = byId("join");
    join.hidden = this.isIn && this.#withSound;
    join.disabled = state === "joining";
    setText(join, state === "joining" ? "Joining\u2026" : this.isIn ? "Join with sound" : state === "ready" ? "Join" : "Join again");
    for (const id of ["mute", "camera", "leave"]) byId(id).hidden = !this.isIn && state !== "joining";
    toggle(byId("mute"), muted, !microphone, microphone ? "" : "No microphone");
    const overSocket = this.media.transport === "websocket";
    toggle(byId("camera"), Boolean(camera), listener || !this.isIn || this.media.transport !== "webrtc", overSocket ? "The camera needs WebRTC" : "");
    root.dataset.microphone = microphone ? (muted ? "muted" : "on") : "none";
    this.tiles.setOwnVideo(camera);
    this.tiles.setOwnState(ownState(this.isIn, listener, microphone, muted), { muted: muted || !microphone });
    byId("own-title").textContent = this.isIn ? this.#welcome?.name || "You" : "You";
  }

  #renderHint() {
    const silent = this.roster.agents.some(({ session }) => /silent|none/i.test(session?.models?.tts ?? ""));
    const hint = byId("voice-hint");
    setText(hint, voiceHint);
    hint.hidden = !voiceHint || !silent;
  }

  #tick() {
    const seconds = this.isIn ? Math.floor((Date.now() - this.#since) / 1000) : 0;
    if (!this.isIn && this.#since) return; // the last call's time stays
    const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
    const digits = parts.slice(parts[0] ? 0 : 1).map((part) => String(part).padStart(2, "0"));
    setText(byId("timer"), digits.join(":"));
  }
}

const STATES = {
  ready: "Not joined",
  joining: "Joining",
  joined: "In the call",
  reconnecting: "Reconnecting",
  left: "You left",
  failed: "Not in the call",
};

function ownState(isIn, listener, microphone, muted) {
  if (!isIn) return "not in the call";
  if (listener) return "listening only";
  if (!microphone) return "typing, no microphone";
  return muted ? "muted" : "microphone on";
}

function toggle(button, pressed, disabled, why) {
  button.setAttribute("aria-pressed", String(pressed));
  button.disabled = disabled;
  button.title = why || button.dataset.title || "";
}

