// Microphone to frames: 960 samples, 16 bits, mono, 48 kHz, which is 20 ms; each is posted as an ArrayBuffer.

const RATE = 48_000;
const SAMPLES = 960;

class Capture extends AudioWorkletProcessor {
  #frame = new Int16Array(SAMPLES);
  #filled = 0;
  #step = sampleRate / RATE;
  #position = 0; // of the next sample to make, in samples of the context, from the start of this block
  #last = 0; // the last sample of the block before

  process(inputs) {
    const channels = inputs[0];
    if (!channels?.length) return true;
    const block = channels.length === 1 ? channels[0] : mix(channels);
    while (this.#position < block.length) {
      const index = Math.floor(this.#position);
      const before = index === 0 ? this.#last : block[index - 1];
      const share = this.#position - index;
      this.#put(this.#step === 1 ? block[index] : before + (block[index] - before) * share);
      this.#position += this.#step;
    }
    this.#position -= block.length;
    this.#last = block[block.length - 1];
    return true;
  }

  #put(sample) {
    this.#frame[this.#filled++] = Math.max(-1, Math.min(1, sample)) * 32767;
    if (this.#filled < SAMPLES) return;
    this.port.postMessage(this.#frame.buffer, [this.#frame.buffer]);
    this.#frame = new Int16Array(SAMPLES);
    this.#filled = 0;
  }
}

function mix(channels) {
  const mono = new Float32Array(channels[0].length);
  for (const channel of channels) for (let i = 0; i < mono.length; i++) mono[i] += channel[i] / channels.length;
  return mono;
}

registerProcessor("capture", Capture);
