// The two requests that the page makes of the REST API. Same origin: the session cookie goes along, if there is one.

import { apiBase, callId, callType } from "./settings.js";

/** A request that did not succeed; `status` is 0 if there was no answer at all. */
export class RequestError extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export const startAgent = (agent, metadata) =>
  post("sessions", {
    call_id: callId,
    call_type: callType,
    ...(agent ? { agent } : {}),
    ...(metadata ? { metadata } : {}),
  });

export const invite = (sessionId, role, name) =>
  post(`sessions/${encodeURIComponent(sessionId)}/invitations`, { role, ...(name ? { name } : {}) });

export async function serverAnswers() {
  try {
    return (await fetch(new URL("health", new URL(apiBase, location.href)), { cache: "no-store" })).ok;
  } catch {
    return false;
  }
}

async function post(path, body) {
  let answer;
  try {
    answer = await fetch(new URL(path, new URL(apiBase, location.href)), {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "application/json" },
      body: JSON.stringify(body),
    });
  } catch {
    throw new RequestError(0, "The server does not answer. Check that it runs and that you are online.");
  }
  const data = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new RequestError(answer.status, sentence(answer, data));
  return data;
}

function sentence(answer, { detail }) {
  const said = Array.isArray(detail) ? detail.map(({ loc, msg }) => `${loc?.at(-1)}: ${msg}`).join("; ") : detail;
  const after = Number(answer.headers.get("Retry-After"));
  const wait = after > 0 ? ` Try again in ${after} s.` : "";
  return `${said || `The server answered ${answer.status}`}.${wait}`.replace(/\.\.+/g, ".");
}
