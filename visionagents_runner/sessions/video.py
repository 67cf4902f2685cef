"""``--video-track-override``: a video file that an agent sees instead of anybody's camera."""

from __future__ import annotations

import asyncio
import logging
import os
from typing import TYPE_CHECKING, Any

from ..exceptions import RunnerConfigurationError
from ..utils.tasks import HeldTasks

if TYPE_CHECKING:
    from vision_agents.core import Agent

logger = logging.getLogger(__name__)

_OPTION = "name a video file with --video-track-override"
_NAME = "video-file"
_stopping = HeldTasks()


def check_video(path: str) -> str:
    """Return the absolute path of a file that can be played.

    Raises:
        RunnerConfigurationError: it cannot be read, or is no video.
    """
    import av

    try:
        with open(path, "rb"):
            pass
        with av.open(path) as container:
            if not container.streams.video or next(container.decode(video=0), None) is None:
                raise RunnerConfigurationError(f"{path!r} holds no pictures: {_OPTION}")
    except av.FFmpegError as error:  # some of which are OSErrors too
        raise RunnerConfigurationError(f"{path!r} cannot be played ({error.strerror}): {_OPTION}") from None
    except OSError as error:
        raise RunnerConfigurationError(f"The video {path!r} cannot be read ({error.strerror}): {_OPTION}") from None
    return os.path.abspath(path)


def play_to(agent: Agent, path: str) -> None:
    """Play the file to ``agent`` from when it has joined until it leaves. Call it before the agent joins.

    ``Agent.set_video_track_override_path`` alone does nothing for an agent that only takes video, and waits for
    somebody's camera for any other (vision-agents 0.6.9). Nor does the agent ever stop what it opened.
    """
    agent.set_video_track_override_path(path)
    needs_video = getattr(agent, "_needs_video", None)  # a stub of somebody's tests may have none
    if needs_video is None or not needs_video():
        logger.warning("The agent takes no video: it will not see %s", path)
        return
    agent._video_track_override_path = path
    opened: list[Any] = []
    open_track = agent._get_video_track_override

    async def get_video_track_override() -> Any:
        track = await open_track()
        opened.append(track)
        return track

    agent._get_video_track_override = get_video_track_override  # type: ignore[method-assign]

    from vision_agents.core.agents.events import AgentJoinedCallEvent, AgentLeftCallEvent
    from vision_agents.core.edge.events import TrackAddedEvent
    from vision_agents.core.edge.types import Participant, TrackType

    async def on_event(event: AgentJoinedCallEvent | AgentLeftCallEvent) -> None:
        if isinstance(event, AgentJoinedCallEvent):
            nobody = Participant(original=None, user_id=_NAME, id=_NAME)
            agent.edge.events.send(
                TrackAddedEvent(plugin_name=_NAME, participant=nobody, track_id=_NAME, track_type=TrackType.VIDEO)
            )
        else:
            # On its own: an agent that closes cancels its handlers.
            _stopping.spawn(_stop(agent, opened), name="video-file-stop")

    # Resolved here because the names above are local: the event bus finds the types by their annotations.
    on_event.__annotations__["event"] = AgentJoinedCallEvent | AgentLeftCallEvent
    agent.events.subscribe(on_event)


async def _stop(agent: Agent, tracks: list[Any]) -> None:
    for info in list(agent._active_video_tracks.values()):
        if info.track in tracks:
            await info.forwarder.stop()
    for track in tracks:
        # Its thread first: the file must not be closed under the frame that it decodes.
        await asyncio.get_running_loop().run_in_executor(track._executor, int)
        track.stop()
