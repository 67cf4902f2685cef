// Frames to sound, through a small buffer that evens out their arrival: it starts to play with 60 ms in hand and never
// holds more than 240 ms. What is older is dropped, because in a conversation late is worse than lost.

const RATE = 48_000;
const START = 0.06 * RATE;
const MOST = 0.24 * RATE;
const FADE = 96; // samples: 2 ms, so that stopping does not click
const SOON_SECONDS = 0.4; // sound that goes on so soon after it ran out had a gap; later, somebody had been silent

class Playback extends AudioWorkletProcessor {
  #ring = new Float32Array(RATE);
  #read = 0; // with a fraction, where the context has another rate
  #write = 0;
  #playing = false;
  #step = RATE / sampleRate;
  #last = 0;
  #ranOutAt = -1;
  #gaps = 0;
  #dropped = 0;

  constructor() {
    super();
    this.port.onmessage = ({ data }) => this.#take(new Int16Array(data));
  }

  get #held() {
    return (this.#write - this.#read + RATE) % RATE;
  }

  process(_, outputs) {
    const out = outputs[0][0];
    if (!this.#playing && this.#held >= START) this.#begin();
    for (let i = 0; i < out.length; i++) {
      if (this.#playing && this.#held < this.#step + 1) this.#runOut();
      if (!this.#playing) {
        this.#last *= 1 - 1 / FADE;
        out[i] = Math.abs(this.#last) < 1e-4 ? 0 : this.#last;
        continue;
      }
      const index = Math.floor(this.#read);
      const share = this.#read - index;
      const here = this.#ring[index % RATE];
      out[i] = this.#last = share === 0 ? here : here + (this.#ring[(index + 1) % RATE] - here) * share;
      this.#read = (this.#read + this.#step) % RATE;
    }
    return true;
  }

  #take(samples) {
    for (const sample of samples) {
      this.#ring[this.#write] = sample / 32768;
      this.#write = (this.#write + 1) % RATE;
    }
    if (this.#held > MOST) {
      const late = Math.floor(this.#held - START);
      this.#read = (this.#read + late) % RATE;
      this.#dropped += late;
      this.#report();
    }
  }

  #begin() {
    this.#playing = true;
    if (this.#ranOutAt >= 0 && currentTime - this.#ranOutAt < SOON_SECONDS) {
      this.#gaps += 1;
      this.#report();
    }
  }

  #runOut() {
    this.#playing = false;
    this.#ranOutAt = currentTime;
  }

  #report() {
    this.port.postMessage({ gaps: this.#gaps, droppedSeconds: this.#dropped / RATE });
  }
}

registerProcessor("playback", Playback);
