// The microphone, the camera, and the lists of what there is to choose from.

import { recall, remember } from "./settings.js";

/** Ask for the microphone. Throws what `getUserMedia` throws; an Error named "insecure" where pages have none. */
export async function openMicrophone() {
  const audio = { echoCancellation: true, noiseSuppression: true, autoGainControl: true };
  return (await open("audioinput", { audio }))?.getAudioTracks()[0];
}

export async function openCamera() {
  const video = { width: { ideal: 640 }, height: { ideal: 480 }, frameRate: { ideal: 20, max: 30 } };
  return (await open("videoinput", { video }))?.getVideoTracks()[0];
}

async function open(kind, constraints) {
  if (!navigator.mediaDevices?.getUserMedia) throw Object.assign(new Error("no media devices"), { name: "insecure" });
  const chosen = recall(kind);
  const [media] = Object.keys(constraints);
  if (chosen) {
    try {
      return await navigator.mediaDevices.getUserMedia({ [media]: { ...constraints[media], deviceId: { exact: chosen } } });
    } catch (error) {
      // The one chosen last time may be at home.
      if (error.name !== "OverconstrainedError" && error.name !== "NotFoundError") throw error;
    }
  }
  return navigator.mediaDevices.getUserMedia(constraints);
}

/** Fill the selects of the Session panel, and call `onchoice(kind, deviceId)` when somebody chooses. */
export class DeviceLists {
  constructor(selects, onchoice) {
    this.selects = selects; // by kind: audioinput, audiooutput, videoinput
    for (const [kind, select] of Object.entries(selects)) {
      select.addEventListener("change", () => {
        remember(kind, select.value);
        onchoice(kind, select.value);
      });
    }
    navigator.mediaDevices?.addEventListener?.("devicechange", () => this.refresh());
  }

  /** Browsers tell the names only after the microphone was allowed once. */
  async refresh() {
    const found = (await navigator.mediaDevices?.enumerateDevices?.().catch(() => [])) ?? [];
    for (const [kind, select] of Object.entries(this.selects)) {
      const devices = found.filter((device) => device.kind === kind && device.deviceId);
      const chosen = recall(kind);
      const options = devices.map(({ deviceId, label }) => new Option(label || "Device without a name", deviceId));
      if (!devices.some(({ deviceId }) => deviceId === "default")) options.unshift(new Option("System default", ""));
      select.replaceChildren(...options);
      if (devices.some(({ deviceId }) => deviceId === chosen)) select.value = chosen;
      select.disabled = devices.length === 0;
    }
  }
}
