// The landing page: Talk starts a session over the REST API and goes to its call; and the visitor's last sessions.

const { sessionsUrl, callUrl, loginUrl, signedIn } = document.querySelector("main").dataset;
const KEPT = "project.sessions";
const SHOWN = 5;

for (const button of document.querySelectorAll("[data-agent]")) {
  button.addEventListener("click", (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return; // a new tab: the call's page offers to start there
    event.preventDefault();
    talk(button);
  });
}
addEventListener("pageshow", () => {
  for (const button of document.querySelectorAll("[data-agent]")) free(button); // who comes back finds it as it was
  if (signedIn === "no") showKept();
});

async function talk(button) {
  if (button.getAttribute("aria-disabled") === "true") return;
  const error = button.closest("li").querySelector(".error");
  error.replaceChildren();
  button.setAttribute("aria-disabled", "true");
  button.firstChild.data = "Starting\u2026";
  const callId = newCallId();
  try {
    const session = await start(callId, button.dataset.agent);
    keep(session.session_id);
    location.assign(`${callUrl}${encodeURIComponent(session.call_type ?? "default")}/${encodeURIComponent(callId)}/`);
  } catch (problem) {
    error.append(problem.message);
    if (problem.signIn) error.append(" ", link("Sign in", loginUrl));
    free(button);
  }
}

function free(button) {
  button.removeAttribute("aria-disabled");
  button.firstChild.data = "Talk";
}

async function start(callId, agent) {
  let answer;
  try {
    answer = await fetch(sessionsUrl, {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "application/json" },
      body: JSON.stringify({ call_id: callId, agent }),
    });
  } catch {
    throw new Error("The server does not answer. Check that it runs, then try again.");
  }
  const data = await answer.json().catch(() => ({}));
  if (answer.ok) return data;
  const detail = typeof data.detail === "string" ? `${data.detail.replace(/\.$/, "")}.` : `The server answered ${answer.status}.`;
  const seconds = Number(answer.headers.get("Retry-After"));
  const after = seconds > 0 ? ` in ${seconds} s` : " in a moment";
  const advice = {
    401: "",
    403: "Ask whoever runs the server for the permission.",
    429: `End a call, or try again${after}.`,
    500: "The server's log and the session's page in the admin say why.",
    503: `Try again${after}.`,
  };
  const problem = new Error([detail, advice[answer.status] ?? ""].filter(Boolean).join(" "));
  problem.signIn = answer.status === 401;
  throw problem;
}

function newCallId() {
  const bytes = crypto.getRandomValues(new Uint8Array(6));
  return `talk-${[...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("")}`;
}

// The sessions that somebody without an account started in this browser

function kept() {
  try {
    const ids = JSON.parse(localStorage.getItem(KEPT) ?? "[]");
    return Array.isArray(ids) ? ids.filter((id) => typeof id === "string") : [];
  } catch {
    return [];
  }
}

function store(ids) {
  try {
    localStorage.setItem(KEPT, JSON.stringify(ids.slice(0, SHOWN)));
  } catch {
    // Then they are not remembered.
  }
}

function keep(id) {
  store([id, ...kept()]);
}

async function showKept() {
  const ids = kept();
  if (!ids.length) return;
  const answers = await Promise.all(ids.map(ask));
  store(ids.filter((_, index) => answers[index] !== null));
  const rows = answers.filter(Boolean).map(row);
  document.querySelector("#sessions tbody").replaceChildren(...rows);
  document.querySelector("#sessions").hidden = rows.length === 0;
  document.querySelector("#no-sessions").hidden = rows.length > 0;
}

/** The session; null if there is none any more; undefined if nobody can tell now. */
async function ask(id) {
  try {
    const answer = await fetch(`${sessionsUrl}/${encodeURIComponent(id)}`, { headers: { Accept: "application/json" } });
    if (answer.ok) return await answer.json();
    return answer.status === 404 ? null : undefined;
  } catch {
    return undefined;
  }
}

function row(session) {
  const made = document.createElement("tr");
  const time = document.createElement("time");
  time.dateTime = session.created_at;
  time.textContent = new Date(session.created_at).toLocaleString([], { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", hour12: false });
  const call = `${callUrl}${encodeURIComponent(session.call_type)}/${encodeURIComponent(session.call_id)}/`;
  const outcome = document.createElement(session.ended_at ? "span" : "strong");
  if (!session.ended_at) outcome.className = "live";
  outcome.textContent = [session.status, session.end_reason?.replaceAll("_", " ")].filter(Boolean).join(": ");
  for (const content of [time, session.agent, link(session.call_id, call), outcome]) made.insertCell().append(content);
  return made;
}

function link(text, url) {
  const made = document.createElement("a");
  made.href = url;
  made.textContent = text;
  return made;
}
