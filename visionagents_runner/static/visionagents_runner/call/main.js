// Builds the page out of its parts. Nothing connects before somebody asks for it.

import { Waves } from "./audio.js";
import { Call } from "./call.js";
import { Composer } from "./composer.js";
import { Connection } from "./connection.js";
import { DeviceLists } from "./devices.js";
import { byId } from "./dom.js";
import { Drawer } from "./drawer.js";
import { Events } from "./events.js";
import { Happenings } from "./happenings.js";
import { Inputs } from "./inputs.js";
import { listenForKeys } from "./keys.js";
import { layOut } from "./layout.js";
import { Media } from "./media.js";
import { Notices } from "./notices.js";
import { Panel } from "./panel.js";
import { recall } from "./settings.js";
import { Sound } from "./sound.js";
import { Starter } from "./starter.js";
import { Tiles } from "./tiles.js";
import { Roster } from "./roster.js";
import { Transcript } from "./transcript.js";
import { Turns } from "./turns.js";

const notices = new Notices({
  join: () => call.join({ sound: true }),
  microphone: () => call.tryMicrophone(),
  sound: () => sound.resume().then(() => notices.clear("speaker_blocked")),
  reload: () => location.reload(),
});
const roster = new Roster();
const sound = new Sound(byId("speaker"));
const media = new Media(sound);
const inputs = new Inputs(notices, sound, media);
const tabs = layOut();
const drawer = new Drawer();
const waves = new Waves();
const tiles = new Tiles(roster);
const panel = new Panel(roster);
const starter = new Starter();
const transcript = new Transcript(roster);
const composer = new Composer(transcript, () => call.join({ sound: false }));
const events = new Events();
const turns = new Turns();
const happenings = new Happenings({
  roster,
  transcript,
  events,
  turns,
  waves,
  drawer,
  starter,
  notices,
  panel,
});
const devices = new DeviceLists(
  { audioinput: byId("microphone-select"), audiooutput: byId("speaker-select"), videoinput: byId("camera-select") },
  (kind, deviceId) => call.chooseDevice(kind, deviceId),
);
const call = new Call({
  notices,
  roster,
  sound,
  media,
  inputs,
  tiles,
  panel,
  starter,
  transcript,
  composer,
  happenings,
  devices,
  connection: new Connection(),
});

sound.addEventListener("local", ({ detail }) => {
  tiles.setLevel("local", detail);
  waves.add("local", detail);
});
sound.addEventListener("remote", ({ detail }) => {
  roster.heard(detail);
  tiles.setLevel("remote", detail);
  waves.add("remote", detail);
  panel.heard(detail);
});
sound.addEventListener("blocked", () => notices.show("speaker_blocked"));
media.addEventListener("video", ({ detail }) => tiles.setVideo(detail));
media.addEventListener("custom", ({ detail }) => happenings.custom(detail));
drawer.addEventListener("shown", ({ detail }) => {
  waves.show(detail === "audio");
  turns.show(detail === "turns");
  if (detail === "events") events.show();
});

listenForKeys({
  m: () => call.mute(),
  c: () => call.switchCamera(),
  d: () => drawer.switch(),
  j: () => call.join({ sound: true }),
  "/": () => {
    tabs.select("conversation");
    composer.focus();
  },
  "?": () => {
    tabs.select("session");
    byId("shortcuts").open = true;
    byId("shortcuts").querySelector("summary").focus();
  },
  Escape: () => notices.dismiss() || (drawer.isOpen && drawer.close()),
});

document.addEventListener("visibilitychange", () => document.hidden || sound.wake());
addEventListener("pagehide", () => call.vanish());
devices.refresh();
if (recall("audiooutput")) sound.setSink(recall("audiooutput"));
if (!("setSinkId" in HTMLMediaElement.prototype)) byId("speaker-field").hidden = true;
