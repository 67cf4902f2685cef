"""Many calls at once on one process: what they cost, and what arrives in browsers.

``python -m tests.edge.load --calls 15 --seconds 20`` starts a process with one real agent a call, whose voice never
stops, and as many connections of Chromium that speak all the time. It prints the CPU of the first process as a share of
one core, and the share of sound that the browsers had to make up ("concealed").
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from typing import Any

PAGE = """
async number => {
  window.mic ||= await navigator.mediaDevices.getUserMedia({audio: true});
  window.pcs ||= [];
  const pc = window.pcs[number] = new RTCPeerConnection({iceServers: []});
  pc.addTrack(window.mic.getAudioTracks()[0], window.mic);
  pc.createDataChannel("events");
  pc.ontrack = e => { const a = pc.audio = new Audio(); a.srcObject = new MediaStream([e.track]); a.play(); };
  await pc.setLocalDescription(await pc.createOffer());
  await new Promise(done => { pc.onicecandidate = e => e.candidate || done(); setTimeout(done, 2000); });
  return pc.localDescription.sdp;
}
"""
STATS = """
async number => {
  const found = {};
  (await window.pcs[number].getStats()).forEach(s => { if (s.type === "inbound-rtp") Object.assign(found, s); });
  return {concealed: found.concealedSamples, silent: found.silentConcealedSamples, total: found.totalSamplesReceived,
          energy: found.totalAudioEnergy, jitter: found.jitterBufferDelay / found.jitterBufferEmittedCount,
          events: found.concealmentEvents, lost: found.packetsLost, received: found.packetsReceived};
}
"""
CHROMIUM = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream", "--no-sandbox",
            "--autoplay-policy=no-user-gesture-required","--disable-features=WebRtcHideLocalIpsWithMdns"]  # fmt: skip


async def serve(calls: int, profile: str = "") -> None:
    """The process that is measured. Reads a JSON object a line, and answers each with one."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    import django

    django.setup()
    from getstream.video.rtc import PcmData
    from vision_agents.core.stt.stt import STT

    from tests.edge.browser import tone
    from visionagents_runner.edge import BrowserEdge, join_room
    from visionagents_runner.testing import stub_agent

    class Deaf(STT):
        async def process_audio(self, pcm_data: PcmData, participant: Any) -> None:
            return None

    async def run(number: int) -> None:
        agent = stub_agent(edge=BrowserEdge(), stt=Deaf())
        call = await agent.create_call("load", str(number))
        async with agent.join(call, participant_wait_timeout=0):
            samples = tone(300 + 20 * number, 1.0, rate=24_000)
            due = time.monotonic()
            while agent.audio_track is not None:
                for start in range(0, len(samples), 480):
                    await agent.audio_track.write(PcmData(24_000, "s16", samples[start : start + 480]))
                due += 1.0
                await asyncio.sleep(max(0.0, due - time.monotonic() - 0.2))

    agents = [asyncio.create_task(run(number)) for number in range(calls)]
    people: dict[int, Any] = {}
    links: list[asyncio.Task[None]] = []
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=2**20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    lag: list[float] = []

    async def watch() -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.01)
            lag.append(time.monotonic() - before - 0.01)

    watching = asyncio.create_task(watch())

    async def pcm(number: int) -> None:
        """The WebSocket's part, without the socket."""
        link = people[number].open_pcm()
        voice = tone(500, 1.0)
        due, count = time.monotonic(), 0

        async def say() -> None:
            nonlocal due, count
            while True:
                start = count % 50 * 960
                link.receive(voice[start : start + 960].tobytes())
                count += 1
                due += 0.02
                await asyncio.sleep(max(0.0, due - time.monotonic()))

        links.append(asyncio.create_task(say()))
        async for _ in link:
            pass

    while line := await reader.readline():
        asked = json.loads(line)
        answer: dict[str, Any] = {}
        if asked["do"] == "join":
            person = people[asked["call"]] = join_room("load", str(asked["call"]), "caller")
            if asked["sdp"]:
                answer["sdp"] = await person.negotiate(asked["sdp"])
            else:
                links.append(asyncio.create_task(pcm(asked["call"])))
        elif asked["do"] == "cpu":
            lag.sort()
            answer = {
                "cpu": time.process_time(),
                "kernel": os.times().system,
                "at": time.monotonic(),
                "lag_p99_ms": 1000 * lag[len(lag) * 99 // 100],
            }
            lag.clear()
        print(json.dumps(answer), flush=True)
    for task in (*agents, *links, watching):
        task.cancel()
    if not profile:
        os._exit(0)


class Server:
    def __init__(self, calls: int, profile: str) -> None:
        command = [sys.executable, "-m", "tests.edge.load", "--serve", "--calls", str(calls)]
        if profile:
            command[1:1] = ["-m", "cProfile", "-o", profile]
            command += ["--profile", profile]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    async def ask(self, **asked: Any) -> dict[str, Any]:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        stdin.write(json.dumps(asked) + "\n")
        stdin.flush()
        while True:
            line = await asyncio.to_thread(stdout.readline)
            if not line:
                raise RuntimeError("The measured process has ended")
            if line.startswith("{"):
                return dict(json.loads(line))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(20)


async def measure(server: Server, seconds: float) -> dict[str, float]:
    before = await server.ask(do="cpu")
    await asyncio.sleep(seconds)
    after = await server.ask(do="cpu")
    share = (after["cpu"] - before["cpu"]) / (after["at"] - before["at"])
    kernel = (after["kernel"] - before["kernel"]) / (after["at"] - before["at"])
    return {
        "cpu_percent_of_a_core": round(100 * share, 1),
        "of_which_kernel": round(100 * kernel, 1),
        "lag_p99_ms": round(after["lag_p99_ms"], 1),
    }


async def with_chromium(server: Server, calls: int, seconds: float) -> dict[str, Any]:
    from playwright.async_api import async_playwright

    from tests.machine.requirements import require

    async with async_playwright() as playwright:
        chromium = await playwright.chromium.launch(executable_path=require("chromium"), args=CHROMIUM)
        context = await chromium.new_context()
        await context.route("**/*", lambda route: route.fulfill(body="<p>", content_type="text/html"))
        # One page for all: a renderer for each would keep a small machine from anything else.
        page = await context.new_page()
        await page.goto("http://localhost:1/")
        for number in range(calls):
            answer = await server.ask(do="join", call=number, sdp=await page.evaluate(PAGE, number))
            connect = "([number, sdp]) => window.pcs[number].setRemoteDescription({type: 'answer', sdp})"
            await page.evaluate(connect, [number, answer["sdp"]])
        await asyncio.sleep(5)
        before = [await page.evaluate(STATS, number) for number in range(calls)]
        result: dict[str, Any] = await measure(server, seconds)
        after = [await page.evaluate(STATS, number) for number in range(calls)]
        await chromium.close()
    shares = []
    for one, two in zip(before, after, strict=True):
        heard = {key: (two[key] or 0) - (one[key] or 0) for key in two}
        shares.append(100 * (heard["concealed"] - heard["silent"]) / max(1, heard["total"]))
    result["concealed_percent_mean"] = round(sum(shares) / len(shares), 3)
    result["concealed_percent_worst"] = round(max(shares), 3)
    result["jitter_buffer_ms"] = round(1000 * sum(one["jitter"] for one in after) / len(after))
    result["lost"] = sum(one["lost"] for one in after)
    result["packets_a_second"] = round(
        sum(two["received"] - one["received"] for one, two in zip(before, after, strict=True)) / seconds / calls, 1
    )
    return result


async def with_frames(server: Server, calls: int, seconds: float) -> dict[str, Any]:
    for number in range(calls):
        await server.ask(do="join", call=number, sdp="")
    await asyncio.sleep(3)
    return await measure(server, seconds)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--pcm", action="store_true", help="plain frames in the process instead of browsers")
    parser.add_argument("--profile", default="", help="write a cProfile there")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        await serve(options.calls, options.profile)
        return
    server = Server(options.calls, options.profile)
    try:
        result = await (with_frames if options.pcm else with_chromium)(server, options.calls, options.seconds)
    finally:
        server.close()
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    asyncio.run(main())
