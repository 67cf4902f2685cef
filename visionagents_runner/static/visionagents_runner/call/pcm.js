// Sound as frames over the WebSocket, where WebRTC finds no way.

const ACCEPT_MS = 5000;

export class Pcm {
  #link;
  #sound;
  #capture = null;
  #playback = null;
  #stop = new AbortController();
  /** Whether the server has opened its side. */
  connected = false;
  report = { gaps: 0, droppedSeconds: 0 };
  #answeredMs;

  constructor(link, sound) {
    this.#link = link;
    this.#sound = sound;
  }

  /** Ask the server for it and start. Throws an Error whose message says why it cannot be. */
  async connect(microphone) {
    this.#playback = await this.#sound.playFrames((report) => (this.report = report));
    const { signal } = this.#stop;
    this.#link.addEventListener("audio", ({ detail }) => this.#playback?.take(detail), { signal });
    const asked = performance.now();
    await this.#accepted();
    this.#answeredMs = performance.now() - asked;
    this.connected = true;
    await this.setMicrophone(microphone);
  }

  /** What the playback counted, and how long the server took to answer: a first idea of the round trip. */
  measure() {
    return { ...this.report, answered_ms: this.#answeredMs };
  }

  async setMicrophone(track) {
    this.#capture?.stop();
    this.#capture = null;
    // A muted track goes on as silence, so that whoever listens learns that the sentence is over.
    if (track) this.#capture = await this.#sound.captureFrames(track, (frame) => this.#link.sendAudio(frame));
  }

  close() {
    this.connected = false;
    this.#stop.abort();
    this.#capture?.stop();
    this.#playback?.stop();
    this.#capture = this.#playback = null;
    this.#link.send({ type: "pcm", on: false });
  }

  #accepted() {
    return new Promise((resolve, reject) => {
      const stop = new AbortController();
      const settle = (outcome, value) => {
        clearTimeout(timer);
        stop.abort();
        outcome(value);
      };
      const timer = setTimeout(() => settle(reject, new Error("the server did not open it")), ACCEPT_MS);
      const listen = (type, take) => this.#link.addEventListener(type, ({ detail }) => take(detail), { signal: stop.signal });
      listen("pcm", ({ on }) => on && settle(resolve));
      listen("error", ({ code, detail }) => code === "no_media" && settle(reject, new Error(detail || code)));
      listen("ended", () => settle(reject, new Error("the connection ended")));
      this.#link.send({ type: "pcm", on: true });
    });
  }
}
