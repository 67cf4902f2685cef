// Tells how loud its input is, 20 times a second, also while the page is in the background, where timers sleep.

const STEP_SECONDS = 0.05;

class Level extends AudioWorkletProcessor {
  #sum = 0;
  #count = 0;

  process(inputs) {
    const channel = inputs[0]?.[0];
    // Without a source there is no channel, and silence it is all the same.
    if (channel) for (const sample of channel) this.#sum += sample * sample;
    this.#count += channel?.length ?? 128;
    if (this.#count >= STEP_SECONDS * sampleRate) {
      this.port.postMessage(Math.sqrt(this.#sum / this.#count));
      this.#sum = this.#count = 0;
    }
    return true;
  }
}

registerProcessor("level", Level);
