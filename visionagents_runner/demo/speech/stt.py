"""`LocalSTT`: speech recognition and turn detection on this machine, in English."""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial

import numpy as np
from getstream.video.rtc import PcmData
from vision_agents.core.edge.types import Participant
from vision_agents.core.stt import STT
from vision_agents.core.stt.stt import TranscriptResponse
from vision_agents.core.warmup import Warmable

from .downsample import Downsampler
from .engine import EngineBusy, Job, Priority, speech_engine
from .models import SpeechUnavailable
from .utterance import BEFORE_CHUNKS, MAX_PIECES, SPEECH, Heard, Samples, Utterance, chunks_to_end
from .vad import CHUNK, CHUNK_MS, ActivityStream, VoiceActivity, activity
from .whisper import Recognised, Recogniser, recognition

MAX_SPEAKERS = 32
_PARTIAL_MS = 700.0
_PARTIAL_MAX_MS = 15_000.0
_BACKLOG_SAMPLES = 5 * 16_000
"""What is kept of somebody's audio while the models load."""

_TICK_SECONDS = 0.1
_STALLED_SECONDS = 0.4
"""Without audio for so long in an utterance, silence is assumed: a browser that is muted sends nothing."""

_FORGET_SECONDS = 60.0
"""Without audio for so long, somebody has left or is muted: nothing of them is kept."""


class LocalSTT(STT, Warmable[None]):
    """Recognises several people at once, and tells when each begins and has ended a turn.

    The words are recognised while the silence that ends a turn still lasts, so that they are there when it is over. How
    long that silence is depends on whether they make a sentence. Everything heavy is done in the thread of `engine`;
    the models are shared by all of the process and load in the background, from the warm-up on or with the first audio.
    """

    turn_detection = True
    model = "whisper"

    def __init__(self, *, partial_words: bool = True) -> None:
        """``partial_words``: also tell what is said while it is being said, when the engine has nothing else to do."""
        super().__init__("local")
        self._partial_words = partial_words
        self._speakers: dict[str, _Speaker] = {}
        self._ticking: asyncio.TimerHandle | None = None
        self._told: Exception | None = None

    # Loading

    async def on_warmup(self) -> None:
        """Begin to load the models. They are not waited for: a session may go by without anybody speaking."""
        activity.start()
        recognition.start()

    def on_warmed_up(self, resource: None) -> None:
        """The models are the process's."""

    def _models(self) -> tuple[VoiceActivity, Recogniser] | None:
        """The models, if they are loaded. Where they cannot be, that is told once."""
        if (voice_activity := activity.value) is not None and (recogniser := recognition.value) is not None:
            self._told = None
            return voice_activity, recogniser
        for loading in (activity.start(), recognition.start()):
            if loading.done() and (error := loading.exception()) is not None and self._told is None:
                self._told = error if isinstance(error, Exception) else SpeechUnavailable(str(error))
                self._emit_error_event(self._told, context="loading the models of speech recognition")
        return None

    # Audio

    async def process_audio(self, pcm_data: PcmData, participant: Participant) -> None:
        if self.closed:
            return
        speaker = self._speaker(participant)
        speaker.pending.append(speaker.downsampler.convert(pcm_data))
        models = self._models()
        if models is None:
            speaker.limit_pending()
            return
        self.model = models[1].name
        for chunk in speaker.take_chunks():
            self._hear(speaker, chunk, models)

    def _speaker(self, participant: Participant) -> _Speaker:
        loop = asyncio.get_running_loop()
        speaker = self._speakers.get(participant.id)
        if speaker is None:
            if len(self._speakers) >= MAX_SPEAKERS:
                self._forget(min(self._speakers.values(), key=lambda known: known.heard_at))
            speaker = self._speakers[participant.id] = _Speaker(participant)
            if self._ticking is None:
                self._ticking = loop.call_later(_TICK_SECONDS, self._tick)
        speaker.heard_at = loop.time()
        return speaker

    def _hear(self, speaker: _Speaker, chunk: Samples, models: tuple[VoiceActivity, Recogniser]) -> None:
        if speaker.activity is None:
            speaker.activity = ActivityStream(models[0])
        self._advance(speaker, chunk, speaker.activity.probability(chunk), models[1])

    def _advance(self, speaker: _Speaker, chunk: Samples, probability: float, recogniser: Recogniser) -> None:
        utterance = speaker.utterance
        if utterance is None:
            if not speaker.begins(chunk, probability):
                return
            utterance = speaker.utterance = Utterance(speaker.before)
        heard = utterance.add(chunk, probability)
        if heard is Heard.STARTED:
            self._emit_turn_started_event(speaker.participant, confidence=probability)
        elif heard is Heard.FORGOTTEN:
            speaker.reset()
        elif heard is Heard.PAUSED:
            self._guess(speaker, utterance, recogniser, Priority.SPECULATIVE)
        elif heard is Heard.RESUMED:
            speaker.drop_guess()
        elif heard is Heard.PIECE:
            self._recognise_piece(speaker, utterance, recogniser)
        if utterance.started:
            self._end_if_over(speaker, utterance, recogniser)
            if self._partial_words and not utterance.silent_chunks and speaker.utterance is utterance:
                self._recognise_partial(speaker, utterance, recogniser)

    # Recognition

    def _submit(
        self, speaker: _Speaker, samples: Samples, recogniser: Recogniser, priority: Priority
    ) -> Job[Recognised] | None:
        def work(job: Job[Recognised]) -> Recognised:
            return recogniser.recognise(samples, lambda: job.unwanted, roughly=priority is Priority.PARTIAL)

        try:
            return speech_engine().submit(priority, work)
        except EngineBusy as error:
            if priority is Priority.FINAL:
                self._fail(speaker, error)
            return None

    def _guess(self, speaker: _Speaker, utterance: Utterance, recogniser: Recogniser, priority: Priority) -> None:
        speaker.drop_partial()
        job = self._submit(speaker, utterance.samples(), recogniser, priority)
        if job is not None:
            speaker.guess = job
            job.done.add_done_callback(partial(self._guessed, speaker, utterance, recogniser, job))

    def _guessed(
        self,
        speaker: _Speaker,
        utterance: Utterance,
        recogniser: Recogniser,
        job: Job[Recognised],
        done: asyncio.Future[Recognised],
    ) -> None:
        failed = None if done.cancelled() else done.exception()
        if speaker.guess is not job:
            return
        if done.cancelled():  # for something more urgent: another guess follows when the turn is over
            speaker.guess = None
        elif failed is not None:
            self._fail(speaker, failed)
        else:
            self._end_if_over(speaker, utterance, recogniser)

    def _recognise_piece(self, speaker: _Speaker, utterance: Utterance, recogniser: Recogniser) -> None:
        job = self._submit(speaker, utterance.cut(), recogniser, Priority.SPECULATIVE)
        if job is None:
            return
        speaker.pieces.append(job)
        job.done.add_done_callback(partial(self._piece_recognised, speaker, utterance, recogniser))

    def _piece_recognised(
        self, speaker: _Speaker, utterance: Utterance, recogniser: Recogniser, done: asyncio.Future[Recognised]
    ) -> None:
        failed = None if done.cancelled() else done.exception()
        if speaker.utterance is not utterance:
            return
        if failed is not None:
            self._fail(speaker, failed)
        else:
            self._end_if_over(speaker, utterance, recogniser)

    def _recognise_partial(self, speaker: _Speaker, utterance: Utterance, recogniser: Recogniser) -> None:
        length = len(utterance.chunks) * CHUNK_MS
        if (
            utterance.duration_ms - speaker.partial_at_ms < _PARTIAL_MS
            or length > _PARTIAL_MAX_MS
            or speaker.partial is not None
            or not speech_engine().idle
        ):
            return
        speaker.partial_at_ms = utterance.duration_ms
        job = self._submit(speaker, utterance.samples(), recogniser, Priority.PARTIAL)
        if job is not None:
            speaker.partial = job
            job.done.add_done_callback(partial(self._partially_recognised, speaker, utterance, job))

    def _partially_recognised(
        self, speaker: _Speaker, utterance: Utterance, job: Job[Recognised], done: asyncio.Future[Recognised]
    ) -> None:
        if speaker.partial is job:
            speaker.partial = None
        if done.cancelled() or done.exception() is not None or self.closed or speaker.utterance is not utterance:
            return
        if text := " ".join(filter(None, [*speaker.pieces_text(), done.result().text])):
            self._emit_transcript_event(
                text, speaker.participant, self._response(utterance, done.result().seconds), mode="replacement"
            )

    # The end of a turn

    def _end_if_over(self, speaker: _Speaker, utterance: Utterance, recogniser: Recogniser) -> None:
        if self.closed or speaker.utterance is not utterance:
            return
        guessed = speaker.guessed
        needed = 1 if len(speaker.pieces) >= MAX_PIECES else chunks_to_end(guessed.text if guessed else None)
        if utterance.silent_chunks < needed:
            return
        if guessed is None or speaker.piece_missing:
            # The turn is over, only its words are not there yet.
            for job in speaker.pieces:
                job.promote(Priority.FINAL)
            if speaker.guess is not None:
                speaker.guess.promote(Priority.FINAL)
            else:
                self._guess(speaker, utterance, recogniser, Priority.FINAL)
            return
        text = " ".join(filter(None, [*speaker.pieces_text(), guessed.text]))
        speaker.reset()
        if not text:
            return
        self._emit_transcript_event(text, speaker.participant, self._response(utterance, guessed.seconds))
        self._emit_turn_ended_event(
            speaker.participant, trailing_silence_ms=needed * CHUNK_MS, duration_ms=utterance.duration_ms
        )

    def _response(self, utterance: Utterance, seconds: float) -> TranscriptResponse:
        return TranscriptResponse(
            language=Recogniser.language,
            processing_time_ms=seconds * 1000,
            audio_duration_ms=utterance.duration_ms,
            model_name=self.model,
        )

    def _fail(self, speaker: _Speaker, error: BaseException) -> None:
        speaker.reset()
        if not self.closed:
            self._emit_error_event(
                error if isinstance(error, Exception) else RuntimeError(repr(error)), context="recognising speech"
            )

    # Time, and the end

    def _tick(self) -> None:
        """Put silence where audio stopped coming, and forget who was silent for long."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        models = self._models() if any(speaker.utterance for speaker in self._speakers.values()) else None
        for speaker in tuple(self._speakers.values()):
            silent_for = now - speaker.heard_at
            if speaker.utterance is not None and models is not None and silent_for > _STALLED_SECONDS:
                self._stall(speaker, models[1])
            elif silent_for > _FORGET_SECONDS:
                self._forget(speaker)
        self._ticking = loop.call_later(_TICK_SECONDS, self._tick) if self._speakers and not self.closed else None

    def _stall(self, speaker: _Speaker, recogniser: Recogniser) -> None:
        for _ in range(round(_TICK_SECONDS * 1000 / CHUNK_MS)):
            if speaker.utterance is not None:
                self._advance(speaker, np.zeros(CHUNK, np.float32), 0.0, recogniser)

    def _forget(self, speaker: _Speaker) -> None:
        speaker.reset()
        self._speakers.pop(speaker.participant.id, None)

    async def clear(self) -> None:
        """Forget what was heard so far, words and sound."""
        await super().clear()  # type: ignore[no-untyped-call]
        for speaker in tuple(self._speakers.values()):
            self._forget(speaker)

    async def close(self) -> None:
        await super().close()  # type: ignore[no-untyped-call]
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None
        for speaker in tuple(self._speakers.values()):
            self._forget(speaker)


class _Speaker:
    """One person: their sound between two frames, and what they are saying. A few hundred kilobytes at most."""

    def __init__(self, participant: Participant) -> None:
        self.participant = participant
        self.heard_at = 0.0
        self.downsampler = Downsampler()
        self.pending: list[Samples] = []
        self.activity: ActivityStream | None = None
        self.before: deque[Samples] = deque(maxlen=BEFORE_CHUNKS)
        self.utterance: Utterance | None = None
        self.guess: Job[Recognised] | None = None
        self.partial: Job[Recognised] | None = None
        self.partial_at_ms = 0.0
        self.pieces: list[Job[Recognised]] = []

    def take_chunks(self) -> list[Samples]:
        """The pending samples in chunks; what is left over waits for more."""
        samples = self.pending[0] if len(self.pending) == 1 else np.concatenate(self.pending)
        whole = len(samples) // CHUNK * CHUNK
        self.pending = [samples[whole:]]
        return [samples[at : at + CHUNK] for at in range(0, whole, CHUNK)]

    def limit_pending(self) -> None:
        if sum(map(len, self.pending)) > 2 * _BACKLOG_SAMPLES:
            self.pending = [np.concatenate(self.pending)[-_BACKLOG_SAMPLES:]]

    def begins(self, chunk: Samples, probability: float) -> bool:
        """Whether an utterance begins with ``chunk``; if not, it is kept in case one begins soon."""
        if probability >= SPEECH:
            return True
        self.before.append(chunk)
        return False

    @property
    def guessed(self) -> Recognised | None:
        """What was recognised in the latest pause; None while it is not known."""
        return _result(self.guess)

    @property
    def piece_missing(self) -> bool:
        return any(not job.done.done() for job in self.pieces)

    def pieces_text(self) -> list[str]:
        return [piece.text for job in self.pieces if (piece := _result(job)) is not None]

    def drop_guess(self) -> None:
        if self.guess is not None:
            guess, self.guess = self.guess, None
            guess.cancel()

    def drop_partial(self) -> None:
        if self.partial is not None:
            partial_job, self.partial = self.partial, None
            partial_job.cancel()

    def reset(self) -> None:
        """What was said is over."""
        if self.utterance is not None:
            self.before.clear()
            self.before.extend(self.utterance.chunks[-BEFORE_CHUNKS:])
        self.utterance = None
        self.drop_guess()
        self.drop_partial()
        for job in self.pieces:
            job.cancel()
        self.pieces = []
        self.partial_at_ms = 0.0


def _result(job: Job[Recognised] | None) -> Recognised | None:
    if job is None or not job.done.done() or job.done.cancelled() or job.done.exception() is not None:
        return None
    return job.done.result()
