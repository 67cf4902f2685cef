// Words for what can go wrong: what happened, and what to do about it. One place, so that they stay of one tone.
//
// Each is {title, text, action?, level?}; `action` names something that notices.js can offer as a button or a link, and
// `level` is "error" (announced at once) unless it says "note".

const PROBLEMS = {
  // The microphone, the camera, the speaker
  insecure: {
    title: "The microphone needs a secure page",
    text:
      "Browsers give it to pages under https:// and on localhost only. Open this page under https://, or on the " +
      "server's own machine under http://localhost. You can type and listen here.",
  },
  no_microphone: {
    title: "No microphone was found",
    text: "Plug one in, or switch it on in the system's sound settings, and try again. You can type meanwhile.",
    action: "microphone",
  },
  refused: {
    title: "The microphone is not allowed on this page",
    text:
      "Open the site settings beside the address (a lock or a slider icon), set Microphone to Allow, and try again. " +
      "You can type meanwhile.",
    action: "microphone",
  },
  in_use: {
    title: "The microphone cannot be opened",
    text: "Another program may be using it. Close that one, or choose another microphone under Session, and try again.",
    action: "microphone",
  },
  microphone_lost: {
    title: "The microphone was unplugged",
    text: "Plug it in again or choose another one under Session, and try again. You can type meanwhile.",
    action: "microphone",
  },
  no_camera: {
    title: "The camera cannot be opened",
    text: "Check that one is connected, that no other program uses it, and that this page may use it (site settings).",
  },
  camera_needs_webrtc: {
    title: "No camera over this connection",
    text: "Sound goes over the WebSocket here, which carries no video. Where UDP is open, WebRTC is used and video works.",
    level: "note",
  },
  speaker_blocked: {
    title: "The browser keeps this page silent",
    text: "It wants one more click before it plays sound.",
    action: "sound",
  },
  old_browser: {
    title: "This browser cannot carry sound to a call",
    text: "It has neither WebRTC nor AudioWorklet. Use a current Firefox, Chrome, Edge or Safari. You can type meanwhile.",
  },

  // The connection
  unreachable: {
    title: "The server does not answer",
    text: "Check that it runs and that you are online, then try again.",
    action: "join",
  },
  websocket_blocked: {
    title: "The server answers, but not to WebSockets",
    text:
      "Either a proxy in between does not pass them on, or the server does not accept this page's address: it must be " +
      "one of ALLOWED_HOSTS or of the listed origins.",
    action: "join",
  },
  reconnecting: {
    title: "The connection broke",
    text: "Trying to join again. What you type meanwhile is sent then.",
    level: "note",
  },
  no_media: {
    title: "There is no sound in this call",
    text: "Neither WebRTC nor the WebSocket could carry it. You can type; to try again, leave and join.",
  },
  silent: {
    title: "The server heard nothing from this page",
    text: "The page was asleep, or the network was away for too long.",
    action: "join",
  },
  going_away: {
    title: "The server is restarting",
    text: "Trying to join again.",
    level: "note",
  },

  // Whether one may
  sign_in: {
    title: "Sign in to join this call",
    text:
      "Or open the link of an invitation that somebody in the call made for you; on your own machine, the page " +
      "local-access beside the API, whose address the server printed at its start.",
    action: "sign_in",
  },
  not_allowed: {
    title: "You may not join this call",
    text:
      "Your account has no permission for it. Ask somebody in the call for an invitation link, or whoever runs the " +
      "server for the permission to start agent sessions.",
  },
  void_token: {
    title: "This invitation is not valid any more",
    text: "It has expired, or the session that it was for has ended. Ask for a new link.",
  },
  session_ended: {
    title: "The session has ended",
    text: "Your invitation ended with it: ask for a new link to join again.",
  },
  call_ended: {
    title: "The call has ended",
    text: "It ended for everybody. Join again to begin it anew.",
    action: "join",
  },
  full: {
    title: "This call is full",
    text: "It has as many people as the server allows. Try again when somebody has left.",
    action: "join",
  },
  too_many: {
    title: "There are too many connections",
    text: "The server takes no more of them now. Try again in a moment.",
    action: "join",
  },
  elsewhere: {
    title: "The agent of this call cannot be reached now",
    text: "It lives in another process of the server than this connection reached. Try again in a moment.",
    action: "join",
  },
  unknown_path: {
    title: "There is no such call address",
    text: "The server does not know this address. Open the call from the page where you found it.",
  },

  // Within the call
  too_fast: {
    title: "That was too fast",
    text: "The server takes a limited number of messages a second. Wait a moment, then go on.",
    level: "note",
  },
  too_large: { title: "That was too long", text: "Send it in smaller parts." },
  say_failed: { title: "The agent could not take that", text: "Send it again." },
  bad_offer: { title: "The server did not understand the browser's offer", text: "Sound goes over the WebSocket instead." },
  bad_message: {
    title: "The page and the server do not understand each other",
    text: "They may be of different versions: reload the page.",
    action: "reload",
  },
  server_error: { title: "The server failed", text: "Its log says why. Try again.", action: "join" },
};

const CLOSE_CODES = {
  4400: "bad_message",
  4401: "sign_in",
  4403: "not_allowed",
  4404: "unknown_path",
  4408: "silent",
  4409: "elsewhere",
  4410: "void_token",
  4413: "too_large",
  4429: "too_fast",
  4503: "going_away",
  1001: "going_away",
  1012: "going_away",
};

/** What a close code means, as a key of `problem`; "lost" for one that says nothing. */
export const meaningOf = (closeCode) => CLOSE_CODES[closeCode] ?? "lost";

/** After these it makes no sense to try again by itself. */
export const isFinal = (code) => !["lost", "going_away", "silent", "elsewhere"].includes(code);

/** `{code, title, text, action, level}` for a code; `detail` is the server's sentence, shown where it says more. */
export function problem(code, detail = "") {
  const found = PROBLEMS[code] ?? PROBLEMS.server_error;
  return { level: "error", ...found, code, text: detailed(code, found.text, detail) };
}

const TELLS_ALL = new Set(["elsewhere", "full", "too_many"]); // there is more than one reason for it
const TELLS_MORE = new Set([...TELLS_ALL, "session_ended", "say_failed", "server_error", "bad_message", "too_large"]);

function detailed(code, text, detail) {
  if (!detail || !TELLS_MORE.has(code)) return text;
  const sentence = /[.!?]$/.test(detail) ? detail : `${detail}.`;
  return TELLS_ALL.has(code) ? sentence : `${sentence} ${text}`;
}

/** The code for what `getUserMedia` threw. */
export function microphoneProblem(error) {
  switch (error?.name) {
    case "NotAllowedError":
    case "SecurityError":
      return "refused";
    case "NotFoundError":
    case "OverconstrainedError":
      return "no_microphone";
    default:
      return "in_use";
  }
}
