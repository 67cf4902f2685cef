// Sound and video between this page and the call: WebRTC, and PCM over the WebSocket where that does not come through.

import { Pcm } from "./pcm.js";
import { Sound } from "./sound.js";
import { WebRTC } from "./webrtc.js";

const canRTC = typeof RTCPeerConnection !== "undefined";

/**
 * Events: "transport" with {transport: null|"webrtc"|"websocket", state: "connecting"|"connected"|"none", why};
 * "video" with a MediaStream or null; "custom" with {data, agent_id}.
 */
export class Media extends EventTarget {
  #sound;
  #link = null;
  #rtc = null;
  #pcm = null;
  #microphone = null;
  #camera = null;
  #run = 0; // what an earlier run still awaits is void

  constructor(sound) {
    super();
    this.#sound = sound;
  }

  /** Whether this browser can carry sound at all. */
  static get possible() {
    return canRTC || Sound.canProcess;
  }

  get transport() {
    return this.#rtc ? "webrtc" : this.#pcm ? "websocket" : null;
  }

  /** Connect to the call that `link` has joined. */
  async start(link, { iceServers = [], speaks = true, forceWebSocket = false }) {
    this.stop();
    const run = ++this.#run;
    this.#link = link;
    link.addEventListener("renegotiate", () => run === this.#run && this.#rtc?.negotiate().catch(() => {}));
    link.addEventListener("pcm", ({ detail }) => {
      if (run !== this.#run || detail.on || !this.#pcm?.connected) return;
      this.#pcm.close();
      this.#pcm = null;
      this.#fallBack(run, "the server had closed it");
    });
    link.addEventListener("media", ({ detail }) => {
      const ours = run === this.#run && this.#rtc && detail.transport === "webrtc";
      if (ours && detail.state === "failed") this.#fallBack(run, "the server's side failed");
    });
    if (!canRTC || forceWebSocket) {
      await this.#fallBack(run, forceWebSocket ? "asked for by the address" : "this browser has no WebRTC");
      return;
    }
    this.#tell("webrtc", "connecting");
    const rtc = new WebRTC(link, iceServers, { microphone: this.#microphone, camera: this.#camera, speaks });
    this.#rtc = rtc;
    rtc.addEventListener("audio", ({ detail }) => this.#sound.playStream(detail));
    rtc.addEventListener("video", ({ detail }) => this.#emit("video", detail));
    rtc.addEventListener("custom", ({ detail }) => this.#emit("custom", detail));
    rtc.addEventListener("failed", () => this.#fallBack(run, "the connection broke"));
    try {
      await rtc.connect();
    } catch (error) {
      await this.#fallBack(run, error.message);
      return;
    }
    if (run === this.#run && this.#rtc === rtc) this.#tell("webrtc", "connected");
  }

  async setMicrophone(track) {
    this.#microphone = track;
    await this.#rtc?.setMicrophone(track);
    await this.#pcm?.setMicrophone(track);
  }

  /** Send this camera. True if somebody takes its picture. */
  async setCamera(track) {
    this.#camera = track;
    await this.#rtc?.setCamera(track).catch(() => {});
    return this.#rtc?.takesVideo ?? false;
  }

  /** `{rtt_ms, lost, received, jitter_ms, gaps, answered_ms, ...}` as far as the transport knows. */
  async measure() {
    if (this.#rtc) return summarise(await this.#rtc.stats());
    if (this.#pcm) return this.#pcm.measure();
    return {};
  }

  stop() {
    this.#run += 1;
    this.#rtc?.close();
    this.#pcm?.close();
    this.#rtc = this.#pcm = null;
    this.#sound.silence();
    this.#emit("video", null);
    this.#tell(null, "none");
  }

  async #fallBack(run, why) {
    if (run !== this.#run || this.#pcm) return;
    this.#rtc?.close();
    this.#rtc = null;
    this.#emit("video", null);
    if (!Sound.canProcess) {
      this.#tell(null, "none", why);
      return;
    }
    const pcm = (this.#pcm = new Pcm(this.#link, this.#sound));
    this.#tell("websocket", "connecting", why);
    try {
      await pcm.connect(this.#microphone);
    } catch (error) {
      if (this.#pcm !== pcm) return;
      pcm.close();
      this.#pcm = null;
      this.#tell(null, "none", error.message);
      return;
    }
    if (this.#pcm === pcm) this.#tell("websocket", "connected", why);
    else pcm.close();
  }

  #tell(transport, state, why = "") {
    this.#emit("transport", { transport, state, why });
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

function summarise(report) {
  const found = {};
  for (const entry of report.values()) {
    if (entry.type === "candidate-pair" && entry.nominated && entry.currentRoundTripTime !== undefined) {
      found.rtt_ms = entry.currentRoundTripTime * 1000;
    } else if (entry.type === "inbound-rtp" && entry.kind === "audio") {
      found.received = entry.packetsReceived;
      found.lost = entry.packetsLost;
      found.jitter_ms = (entry.jitter ?? 0) * 1000;
      found.concealed = entry.concealedSamples - (entry.silentConcealedSamples ?? 0);
      found.samples = entry.totalSamplesReceived;
      found.energy = entry.totalAudioEnergy;
    } else if (entry.type === "outbound-rtp" && entry.kind === "audio") {
      found.sent = entry.packetsSent;
    } else if (entry.type === "inbound-rtp" && entry.kind === "video") {
      found.frames = entry.framesDecoded;
    } else if (entry.type === "outbound-rtp" && entry.kind === "video") {
      found.frames_sent = entry.framesSent;
    }
  }
  return found;
}
