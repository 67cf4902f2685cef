// The microphone and the camera of this page: opening, muting, changing and losing them.

import { openCamera, openMicrophone } from "./devices.js";
import { microphoneProblem } from "./problems.js";

/** Event: "change" whenever `microphone`, `camera` or `muted` is another. */
export class Inputs extends EventTarget {
  microphone = null;
  camera = null;
  muted = false;
  #camera = 0;

  constructor(notices, sound, media) {
    super();
    this.notices = notices;
    this.sound = sound;
    this.media = media;
  }

  /** Ask for the microphone; a refusal becomes a notice, and the call goes on without. */
  async openMicrophone() {
    this.notices.clear("insecure", "no_microphone", "refused", "in_use", "microphone_lost");
    let track;
    try {
      track = await openMicrophone();
    } catch (error) {
      this.notices.show(error.name === "insecure" ? "insecure" : microphoneProblem(error));
      return false;
    }
    this.microphone?.stop();
    this.microphone = track;
    track.enabled = !this.muted;
    track.addEventListener("ended", () => track === this.microphone && this.#lose());
    await this.sound.watchLocal(track);
    await this.media.setMicrophone(track);
    this.#changed();
    return true;
  }

  mute(muted) {
    this.muted = muted;
    if (this.microphone) this.microphone.enabled = !muted;
    this.#changed();
  }

  /** Returns whether somebody takes the picture. */
  async openCamera() {
    const run = ++this.#camera;
    this.notices.clear("no_camera", "camera_needs_webrtc");
    let track;
    try {
      track = await openCamera();
    } catch (error) {
      this.notices.show(error.name === "insecure" ? "insecure" : "no_camera");
      return false;
    }
    if (run !== this.#camera) {
      track.stop(); // switched off while the browser asked
      return false;
    }
    this.camera?.stop();
    this.camera = track;
    track.addEventListener("ended", () => track === this.camera && this.closeCamera());
    this.#changed();
    return this.media.setCamera(track);
  }

  closeCamera() {
    this.#camera += 1;
    this.camera?.stop();
    this.camera = null;
    this.media.setCamera(null);
    this.#changed();
  }

  close() {
    this.microphone?.stop();
    this.microphone = null;
    this.media.setMicrophone(null);
    this.closeCamera();
    this.muted = false;
    this.#changed();
  }

  #lose() {
    this.microphone = null;
    this.media.setMicrophone(null);
    this.sound.watchLocal(null);
    this.notices.show("microphone_lost");
    this.#changed();
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}
