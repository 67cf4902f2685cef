// What is heard and how loud: the audio element that plays, the levels of both sides, the frames of PCM.
//
// Everything that comes plays through one <audio> element, also PCM, by way of a MediaStreamDestination: so choosing a
// speaker, a browser that blocks playing, and echo cancellation are one and the same for both transports.

const WORKLETS = ["level", "capture", "playback"];
const POLL_MS = 50;

/** Events: "local" and "remote" with a level 0..1 about 20 times a second; "blocked" if the browser plays nothing. */
export class Sound extends EventTarget {
  #context = null;
  #ready = null;
  #local = null;
  #remote = null;
  #sink = "";

  constructor(element) {
    super();
    this.element = element;
  }

  /** Whether PCM can be captured and played: AudioWorklet exists on secure pages only. */
  static get canProcess() {
    return isSecureContext && typeof AudioWorkletNode !== "undefined";
  }

  /** Open the context. To be called while a click or a key is handled: else browsers keep it suspended. */
  unlock() {
    if (this.#context === null) {
      this.#context = new AudioContext({ latencyHint: "interactive" });
      const load = (name) => this.#context.audioWorklet.addModule(new URL(`./worklets/${name}.js`, import.meta.url));
      this.#ready = Sound.canProcess ? Promise.all(WORKLETS.map(load)) : Promise.resolve();
      this.#ready.catch(() => {}); // whoever needs them awaits, and hears of it
    }
    this.#context.resume().catch(() => {});
  }

  /** Go on after the system or the browser suspended it, which some do to pages in the background. */
  wake() {
    this.#context?.resume().catch(() => {});
  }

  async setSink(deviceId) {
    this.#sink = deviceId;
    await this.element.setSinkId?.(deviceId).catch(() => {});
  }

  // Levels

  async watchLocal(track) {
    this.#local?.stop();
    this.#local = track && (await this.#meter(new MediaStream([track]), "local"));
    if (!track) this.#emit("local", 0);
  }

  // What plays

  async playStream(stream) {
    await this.#play(stream);
    if (this.element.srcObject !== stream) return; // something else plays by now, or nothing
    this.#remote?.stop();
    this.#remote = await this.#meter(stream, "remote");
  }

  /** Play frames of PCM: returns `(frame) => void` and a way to stop. Throws where there is no AudioWorklet. */
  async playFrames(onreport) {
    await this.#ready;
    const node = new AudioWorkletNode(this.#context, "playback", { numberOfInputs: 0, outputChannelCount: [1] });
    const destination = this.#context.createMediaStreamDestination();
    node.connect(destination);
    node.port.onmessage = ({ data }) => onreport(data);
    // Not awaited: a busy browser takes its time to begin playing, and what there is to play has to be asked for.
    this.playStream(destination.stream).catch(() => {});
    return {
      take: (frame) => node.port.postMessage(frame, [frame]),
      stop: () => node.disconnect(),
    };
  }

  /** Call `onframe(ArrayBuffer)` for every 20 ms of the microphone. */
  async captureFrames(track, onframe) {
    await this.#ready;
    const source = this.#context.createMediaStreamSource(new MediaStream([track]));
    const node = new AudioWorkletNode(this.#context, "capture", { numberOfOutputs: 0 });
    node.port.onmessage = ({ data }) => onframe(data);
    source.connect(node);
    return { stop: () => (source.disconnect(), (node.port.onmessage = null)) };
  }

  silence() {
    this.#remote?.stop();
    this.#remote = null;
    this.element.srcObject = null;
    this.#emit("remote", 0);
  }

  /** Try again to play, from a click. */
  async resume() {
    this.unlock();
    await this.element.play();
  }

  close() {
    this.#local?.stop();
    this.#local = null;
    this.silence();
    this.#context?.close().catch(() => {});
    this.#context = null;
  }

  async #play(stream) {
    if (this.element.srcObject === stream) return;
    this.element.srcObject = stream;
    if (this.#sink) await this.setSink(this.#sink);
    try {
      await this.element.play();
    } catch (error) {
      if (error.name === "NotAllowedError") this.#emit("blocked");
    }
  }

  async #meter(stream, name) {
    if (this.#context === null) this.unlock();
    await this.#ready?.catch(() => {});
    if (this.#context === null) return null; // closed meanwhile
    const source = this.#context.createMediaStreamSource(stream);
    const tell = (level) => this.#emit(name, level);
    return Sound.canProcess ? this.#byWorklet(source, tell) : this.#byTimer(source, tell);
  }

  #byWorklet(source, tell) {
    const node = new AudioWorkletNode(this.#context, "level", { numberOfOutputs: 0 });
    node.port.onmessage = ({ data }) => tell(data);
    source.connect(node);
    return { stop: () => (source.disconnect(), (node.port.onmessage = null)) };
  }

  #byTimer(source, tell) {
    const analyser = this.#context.createAnalyser();
    const samples = new Float32Array(analyser.fftSize);
    source.connect(analyser);
    const timer = setInterval(() => {
      analyser.getFloatTimeDomainData(samples);
      tell(Math.sqrt(samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length));
    }, POLL_MS);
    return { stop: () => (clearInterval(timer), source.disconnect()) };
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

/** A level as a share of a meter's length: -60 dB is nothing, -6 dB all of it. */
export function share(level) {
  if (level <= 0) return 0;
  return Math.max(0, Math.min(1, (20 * Math.log10(level) + 60) / 54));
}
