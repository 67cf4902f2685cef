// The signalling WebSocket: greets, counts and acknowledges what comes, answers pings, and says why it ended.

import { isFinal, meaningOf } from "./problems.js";

const VERSION = 1;
const ACK_EVERY = 25; // messages
const ACK_WITHIN_MS = 1000;
const WELCOME_WITHIN_MS = 12_000;
const AUDIO_WAITING_BYTES = 48_000; // half a second of PCM: what waits longer is too late to be heard

/** Why the link ended or never was; `code` is one of problems.js. */
export class LinkError extends Error {
  constructor(code, detail = "") {
    super(detail || code);
    this.code = code;
    this.detail = detail;
    this.final = isFinal(code);
  }
}

/**
 * Events: every message of the server by its type, as a CustomEvent with the message as detail; "audio" with an
 * ArrayBuffer; "ended" with a LinkError, once, if it ends after the welcome without `leave`.
 */
export class Link extends EventTarget {
  #socket = null;
  #received = 0;
  #acknowledged = 0;
  #lastAck = 0;
  #ackTimer = 0;
  #fatal = null;
  #left = false;

  /** Connect and greet. Returns the server's welcome. Throws LinkError. */
  open(url, hello) {
    return new Promise((resolve, reject) => {
      const socket = (this.#socket = new WebSocket(url));
      socket.binaryType = "arraybuffer";
      let welcomed = false;
      let opened = false;
      const timer = setTimeout(() => socket.close(), WELCOME_WITHIN_MS);
      socket.onopen = () => {
        opened = true;
        this.send({ type: "hello", v: VERSION, ...hello });
      };
      socket.onmessage = ({ data }) => {
        this.#count();
        if (typeof data !== "string") {
          this.#emit("audio", data);
          return;
        }
        const message = parse(data);
        if (message === null) return;
        if (message.type === "welcome" && !welcomed) {
          welcomed = true;
          clearTimeout(timer);
          resolve(message);
        } else {
          this.#take(message);
        }
      };
      socket.onclose = ({ code }) => {
        clearTimeout(timer);
        clearTimeout(this.#ackTimer);
        const error = this.#fatal ?? new LinkError(opened ? meaningOf(code) : "unreachable");
        if (!welcomed) reject(error);
        else if (!this.#left) this.#emit("ended", error);
      };
    });
  }

  get isOpen() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  /** False if the link is not open. */
  send(message) {
    if (!this.isOpen) return false;
    this.#socket.send(JSON.stringify(message));
    return true;
  }

  sendAudio(frame) {
    if (this.isOpen && this.#socket.bufferedAmount < AUDIO_WAITING_BYTES) this.#socket.send(frame);
  }

  leave() {
    this.#left = true;
    this.send({ type: "leave" });
    this.#socket?.close(1000);
  }

  #take(message) {
    if (message.type === "ping") {
      this.#acknowledge();
      this.send({ type: "pong", t: message.t });
    }
    if (message.type === "error" && message.fatal) this.#fatal = new LinkError(message.code, message.detail);
    else this.#emit(message.type, message);
  }

  // Acknowledging by what arrives, not by a timer alone: those of a page in the background may come once a minute.
  #count() {
    this.#received += 1;
    if (this.#received - this.#acknowledged >= ACK_EVERY || performance.now() - this.#lastAck >= ACK_WITHIN_MS) {
      this.#acknowledge();
    } else {
      this.#ackTimer ||= setTimeout(() => this.#acknowledge(), ACK_WITHIN_MS);
    }
  }

  #acknowledge() {
    clearTimeout(this.#ackTimer);
    this.#ackTimer = 0;
    if (this.#received === this.#acknowledged) return;
    this.#acknowledged = this.#received;
    this.#lastAck = performance.now();
    this.send({ type: "ack", n: this.#received });
  }

  #emit(type, detail) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}

function parse(text) {
  try {
    const message = JSON.parse(text);
    return typeof message?.type === "string" ? message : null;
  } catch {
    return null;
  }
}
