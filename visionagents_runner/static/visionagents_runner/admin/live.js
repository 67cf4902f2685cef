// Keeps a page of the admin fresh: asks for the page again, gets the parts that change, and puts them in place.
//
// [data-va-watch]   data-va-every: seconds; data-va-seq: the last event that is shown; data-va-over: nothing will change
// [data-va-live]    replaced where it differs from what is shown; data-va-key, if there, says whether it does
// [data-va-append]  gets the children with a higher data-seq than its last
// #result_list      Django's list: its rows are changed where they stand, since Django's script knows their checkboxes

import { updateList } from "./list.js";

const LONGEST_SECONDS = 60;
const note = document.getElementById("va-watch-note");
let failures = 0;
let timer = null;
let asking = false;

function watch() {
  return document.querySelector("[data-va-watch]");
}

function say(text, state) {
  if (note.dataset.state === state) return;
  note.dataset.state = state;
  note.textContent = text;
}

function same(old, fresh) {
  const key = fresh.dataset.vaKey;
  return key === undefined ? old.isEqualNode(fresh) : old.dataset.vaKey === key;
}

/** Put the parts of `fresh` in place, but for the one in which the keyboard's focus is. */
function place(fresh) {
  for (const part of fresh.querySelectorAll("[data-va-live]")) {
    const old = document.getElementById(part.id);
    if (old === null || same(old, part)) continue;
    const focused = document.activeElement;
    if (focused !== document.body && old.contains(focused) && focused.id === "") continue;
    const places = [...old.querySelectorAll(".va-scroll, .va-tall")].map((box) => [box.scrollLeft, box.scrollTop]);
    old.replaceWith(document.adoptNode(part));
    part.querySelectorAll(".va-scroll, .va-tall").forEach((box, number) => {
      if (places[number]) [box.scrollLeft, box.scrollTop] = places[number];
    });
  }
  for (const list of fresh.querySelectorAll("[data-va-append]")) append(list);
}

function append(list) {
  const shown = document.getElementById(list.id);
  if (shown === null) return;
  const last = Number(shown.lastElementChild?.dataset.seq ?? 0);
  const box = shown.closest(".va-tall");
  // Who has scrolled up reads; who is at the end wants to see what comes.
  const atEnd = box === null || box.scrollTop + box.clientHeight >= box.scrollHeight - 8;
  for (const line of [...list.children]) {
    if (Number(line.dataset.seq) > last) shown.append(document.adoptNode(line));
  }
  if (box !== null && atEnd) box.scrollTop = box.scrollHeight;
}

async function ask() {
  const headers = { "X-Live": watch().dataset.vaSeq ?? "0" };
  const answer = await fetch(location.href, { headers, cache: "no-store", redirect: "manual", credentials: "same-origin" });
  if (answer.type === "opaqueredirect" || answer.status === 403 || answer.status === 404) return null;
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  return new DOMParser().parseFromString(await answer.text(), "text/html");
}

async function refresh() {
  if (asking || document.hidden) return;
  asking = true;
  try {
    const fresh = await ask();
    if (fresh === null) {
      say(note.dataset.vaOut, "out");
      return;
    }
    failures = 0;
    const waits = updateList(fresh);
    place(fresh);
    const told = fresh.querySelector("[data-va-watch]");
    if (told !== null) watch().replaceWith(document.adoptNode(told));
    if (watch().hasAttribute("data-va-over")) {
      say(note.dataset.vaEnded, "ended");
      return;
    }
    say(waits ? note.dataset.vaPaused : note.dataset.vaLiveWord, waits ? "paused" : "live");
  } catch {
    failures += 1;
    say(note.dataset.vaLost, "lost");
  } finally {
    asking = false;
    plan();
  }
}

function plan() {
  clearTimeout(timer);
  if (document.hidden || watch().hasAttribute("data-va-over") || note.dataset.state === "out") return;
  const seconds = Math.min(Number(watch().dataset.vaEvery) * 2 ** failures, LONGEST_SECONDS);
  timer = setTimeout(refresh, seconds * 1000);
}

for (const box of document.querySelectorAll(".va-tall")) box.scrollTop = box.scrollHeight;
if (watch() !== null && note !== null) {
  if (watch().hasAttribute("data-va-over")) {
    note.dataset.state = "ended";
  } else {
    say(note.dataset.vaLiveWord, "live");
    document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : refresh()));
    plan();
  }
}
