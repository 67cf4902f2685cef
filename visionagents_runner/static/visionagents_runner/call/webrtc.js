// One peer connection with the server: sound both ways, video where somebody wants it, the data channel "events".

const GATHER_MS = 1000;
const GATHER_WITH_SERVERS_MS = 3000;
const ANSWER_MS = 6000;
const CONNECT_MS = 4000;
const DISCONNECTED_MS = 5000;

let offers = 0; // of this page: an answer to an earlier peer connection may still come when there is a new one

/**
 * Events: "audio" and "video" with a MediaStream (video: or null, when none comes any more); "failed" once, if it broke
 * after it had connected; "custom" with what came over the data channel.
 */
export class WebRTC extends EventTarget {
  #link;
  #pc;
  #audio;
  #video;
  #negotiating = Promise.resolve();
  #closed = false;
  #brokenTimer = 0;

  constructor(link, iceServers, { microphone, camera, speaks }) {
    super();
    this.#link = link;
    this.#pc = new RTCPeerConnection({ iceServers, bundlePolicy: "max-bundle" });
    this.gatherMs = iceServers.length ? GATHER_WITH_SERVERS_MS : GATHER_MS;
    const channel = this.#pc.createDataChannel("events");
    channel.onmessage = ({ data }) => this.#custom(data);
    // Both ways from the start where one may speak: a microphone or camera that comes later needs no new offer.
    const direction = speaks ? "sendrecv" : "recvonly";
    this.#audio = this.#pc.addTransceiver(microphone ?? "audio", { direction });
    this.#video = this.#pc.addTransceiver(camera ?? "video", { direction });
    this.#pc.ontrack = ({ track }) => this.#received(track);
  }

  /** Negotiate and wait until it is connected. Throws an Error whose message says why it will not be. */
  async connect() {
    await this.negotiate();
    await this.#connected();
    this.#pc.onconnectionstatechange = () => this.#changed();
    this.#changed();
  }

  /** Make an offer and take the answer; one at a time. */
  negotiate() {
    const next = this.#negotiating.catch(() => {}).then(() => this.#offer());
    this.#negotiating = next;
    return next;
  }

  setMicrophone(track) {
    return this.#audio.sender.replaceTrack(track);
  }

  async setCamera(track) {
    await this.#video.sender.replaceTrack(track);
    const sends = ["sendrecv", "sendonly"].includes(this.#video.currentDirection);
    if (track && !sends && !this.#closed) await this.negotiate();
  }

  /** Whether the server takes the camera's picture: it does when an agent in the call wants it. */
  get takesVideo() {
    return ["sendrecv", "sendonly"].includes(this.#video.currentDirection);
  }

  stats() {
    return this.#pc.getStats();
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#brokenTimer);
    this.#pc.onconnectionstatechange = this.#pc.ontrack = null;
    this.#pc.close();
  }

  async #offer() {
    if (this.#closed) return;
    await this.#pc.setLocalDescription();
    await this.#gathered();
    if (this.#closed) return; // the call goes on another way, and the server would take this for a new beginning
    const { sdp } = this.#pc.localDescription;
    if (!sdp.includes("a=candidate:")) throw new Error("the browser found no network address to offer");
    const id = `offer-${++offers}`;
    const answer = await this.#answer(id, sdp);
    if (!this.#closed) await this.#pc.setRemoteDescription({ type: "answer", sdp: answer });
    if (!["sendrecv", "recvonly"].includes(this.#video.currentDirection)) this.#emit("video", null);
  }

  #gathered() {
    if (this.#pc.iceGatheringState === "complete") return Promise.resolve();
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, this.gatherMs);
      this.#pc.addEventListener("icegatheringstatechange", () => {
        if (this.#pc.iceGatheringState === "complete") resolve(clearTimeout(timer));
      });
    });
  }

  #answer(id, sdp) {
    return new Promise((resolve, reject) => {
      const stop = new AbortController();
      const settle = (outcome, value) => {
        clearTimeout(timer);
        stop.abort();
        outcome(value);
      };
      const timer = setTimeout(() => settle(reject, new Error("the server did not answer the offer")), ANSWER_MS);
      const listen = (type, take) => this.#link.addEventListener(type, ({ detail }) => take(detail), { signal: stop.signal });
      listen("answer", (message) => message.id === id && settle(resolve, message.sdp));
      listen("error", (message) => message.id === id && settle(reject, new Error(message.detail || message.code)));
      listen("media", ({ transport, state, detail }) => {
        if (transport === "webrtc" && state === "failed") settle(reject, new Error(detail || "the server's side failed"));
      });
      listen("ended", () => settle(reject, new Error("the connection ended")));
      this.#link.send({ type: "offer", id, sdp });
    });
  }

  #connected() {
    return new Promise((resolve, reject) => {
      const stop = new AbortController();
      const settle = (outcome, value) => {
        clearTimeout(timer);
        stop.abort();
        outcome(value);
      };
      const timer = setTimeout(() => settle(reject, new Error("no packets came through")), CONNECT_MS);
      const look = () => {
        const state = this.#pc.connectionState;
        if (state === "connected") settle(resolve);
        else if (state === "failed" || state === "closed") settle(reject, new Error("no packets came through"));
      };
      this.#pc.addEventListener("connectionstatechange", look, { signal: stop.signal });
      this.#link.addEventListener(
        "media",
        ({ detail }) => {
          if (detail.transport === "webrtc" && detail.state === "failed") settle(reject, new Error("the server's side failed"));
        },
        { signal: stop.signal },
      );
      look();
    });
  }

  #changed() {
    const state = this.#pc.connectionState;
    clearTimeout(this.#brokenTimer);
    if (state === "failed" || state === "closed") this.#emit("failed");
    // A short break heals by itself; to wait for "failed" takes a browser half a minute.
    if (state === "disconnected") this.#brokenTimer = setTimeout(() => this.#emit("failed"), DISCONNECTED_MS);
  }

  #received(track) {
    const stream = new MediaStream([track]);
    if (track.kind === "audio") {
      this.#emit("audio", stream);
      return;
    }
    // Without frames a video track is muted: an agent that publishes none has no picture to show.
    track.onunmute = () => this.#emit("video", stream);
    track.onmute = track.onended = () => this.#emit("video", null);
    if (!track.muted) this.#emit("video", stream);
  }

  #custom(text) {
    try {
      this.#emit("custom", JSON.parse(text));
    } catch {
      // Not JSON, so not ours.
    }
  }

  #emit(type, detail) {
    if (!this.#closed) this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
