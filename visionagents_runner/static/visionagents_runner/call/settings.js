// What the page was told by its address and its server, and what it remembers of the person in front of it.

const data = document.body.dataset;
const query = new URLSearchParams(location.search);

export const callType = data.callType ?? "default";
export const callId = data.callId ?? "";
export const apiBase = data.apiBase ?? "/";
export const voiceHint = data.voiceHint ?? "";
export const loginUrl = data.loginUrl ?? "";

/** For tests, and for people who know that UDP is closed where they are. */
export const forceWebSocket = query.get("transport") === "websocket";

/** The kind of agent that the link to this page names: what to offer where there is none. */
export const wantedAgent = query.get("agent") ?? "";

export function socketUrl() {
  const url = new URL(data.wsPath ?? "", location.href);
  url.protocol = location.protocol === "https:" ? "wss:" : "ws:";
  url.search = url.hash = "";
  return url.href;
}

/** The join token of an invitation. It stands in the fragment, which browsers send to nobody. */
export function joinToken() {
  return new URLSearchParams(location.hash.slice(1)).get("token") ?? undefined;
}

/** Join by this invitation from now on, also after a reload. */
export function keepToken(token) {
  history.replaceState(null, "", `#${new URLSearchParams({ token })}`);
}

/** Where to sign in, and come back here; empty if the project has no such page. */
export function signInUrl() {
  if (!loginUrl) return "";
  const url = new URL(loginUrl, location.href);
  url.searchParams.set("next", location.pathname + location.search + location.hash);
  return url.href;
}

const PREFIX = "visionagents_runner.";

export function recall(name, otherwise = "") {
  try {
    return localStorage.getItem(PREFIX + name) ?? otherwise;
  } catch {
    return otherwise; // storage can be forbidden
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(PREFIX + name, value);
  } catch {
    // Then it is for this visit only.
  }
}
