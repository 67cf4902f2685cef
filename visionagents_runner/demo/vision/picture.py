"""What is found on one camera picture, and how it is drawn. OpenCV only: no event loop, no agent."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
"""Height x width x 3, blue green red."""

MAX_WIDTH = 640
"""Pictures are made smaller than this before anything else is done with them."""

_STUDIED_WIDTH = 320
_SETTLING_PICTURES = 8
"""How many pictures the background takes to be known; until then nothing counts as moving."""
_BACKGROUND_MEMORY = 340
"""A tenth of it, in pictures (about three seconds), after which what came to rest belongs to the background."""
_DIFFERENT = 25
"""Of 255: how much a spot changes from one picture to the next, beyond noise, if something moves there."""
_SMALLEST_MOVER = 0.002
"""Share of the picture below which a moving spot is noise."""
_ALL_CHANGED = 0.7
"""Share of the picture above which the light or the camera changed, not something before it."""
_FACES_EVERY = 3
_SMALLEST_FACE = 1 / 10
"""Of the picture's height."""

_ACCENT = (80, 220, 60)
_FACE = (60, 180, 255)
_INK = (245, 245, 245)
_PAPER = (24, 24, 24)
_FONT = cv2.FONT_HERSHEY_SIMPLEX

_HUES = ((8, "red"), (22, "orange"), (34, "yellow"), (85, "green"), (100, "turquoise"), (130, "blue"), (160, "purple"))
_COLOURFUL_SHARE = 0.012


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found on a picture."""

    moving_things: int
    motion: str
    """"none", "a little", "some", "a lot"."""
    faces: int | None
    """None: this OpenCV comes without a face detector."""
    brightness: str
    """"dark", "dim", "bright", "very bright"."""
    colour: str
    """The strongest colour, or "" where there is hardly any."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def face_detector() -> Any | None:
    """Return OpenCV's own face detector, or None where its package has none (OpenCV 5)."""
    folder = getattr(getattr(cv2, "data", None), "haarcascades", "")
    file = Path(folder, "haarcascade_frontalface_default.xml")
    if not hasattr(cv2, "CascadeClassifier") or not file.is_file():
        return None
    detector = cv2.CascadeClassifier(str(file))
    return None if detector.empty() else detector


class Watcher:
    """Looks at the pictures of one camera, one after the other. Not for two threads at a time."""

    def __init__(self) -> None:
        self._background = cv2.createBackgroundSubtractorMOG2(_BACKGROUND_MEMORY, 25, detectShadows=False)
        self._kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
        self._detector = face_detector()
        self._faces: list[tuple[int, int, int, int]] = []
        self._size = (0, 0)
        self._before: Any = None
        self._looked_at = 0

    def look(self, picture: Picture) -> Seen:
        """Find what moves and who is there, and draw the outlines and a legend into ``picture``."""
        height, width = picture.shape[:2]
        if (width, height) != self._size:  # the camera was turned, or another one chosen
            self._size, self._looked_at, self._before = (width, height), 0, None
        scale = min(1.0, _STUDIED_WIDTH / width)
        small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) if scale < 1 else picture
        grey = cv2.cvtColor(small, cv2.COLOR_BGR2GRAY)

        outlines, share = self._moving(grey)
        if self._detector is not None and self._looked_at % _FACES_EVERY == 0:
            least = max(16, int(grey.shape[0] * _SMALLEST_FACE))
            found = self._detector.detectMultiScale(cv2.equalizeHist(grey), 1.2, 5, minSize=(least, least))
            self._faces = [tuple(int(number) for number in box) for box in found]  # type: ignore[misc]
        self._looked_at += 1
        seen = Seen(
            moving_things=len(outlines),
            motion=_amount(share),
            faces=None if self._detector is None else len(self._faces),
            brightness=_brightness(grey),
            colour=_colour(small),
        )
        self._draw(picture, outlines, 1 / scale, seen)
        return seen

    def _moving(self, grey: Any) -> tuple[list[Any], float]:
        """Return the outlines of what moves, the largest first, and how much of the picture they cover."""
        settling = self._looked_at < _SETTLING_PICTURES
        rate = 1.0 if self._looked_at == 0 else 0.3 if settling else 1 / _BACKGROUND_MEMORY
        blurred = cv2.GaussianBlur(grey, (5, 5), 0)
        mask = self._background.apply(blurred, learningRate=rate)
        before, self._before = self._before, blurred
        if settling or before is None:
            return [], 0.0
        # What comes and goes again and again (a hand that waves) is soon background: the last picture tells of it.
        mask = cv2.bitwise_or(mask, cv2.inRange(cv2.absdiff(blurred, before), _DIFFERENT, 255))
        mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, self._kernel)
        mask = cv2.dilate(mask, self._kernel, iterations=2)  # one thing, not its pieces
        outlines, _ = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        whole = float(grey.size)
        areas = sorted(((cv2.contourArea(outline) / whole, outline) for outline in outlines), key=lambda each: -each[0])
        movers = [(area, outline) for area, outline in areas if area >= _SMALLEST_MOVER]
        share = sum(area for area, _ in movers)
        if share > _ALL_CHANGED:
            self._looked_at = 0  # learn the background anew
            return [], 0.0
        return [outline for _, outline in movers], share

    def _draw(self, picture: Picture, outlines: list[Any], scale: float, seen: Seen) -> None:
        drawn = [(each * scale).astype(np.int32) for each in outlines]
        for colour, thickness in ((_PAPER, 5), (_ACCENT, 2)):  # to be seen on anything
            cv2.drawContours(picture, drawn, -1, colour, thickness, cv2.LINE_AA)
        for x, y, width, height in self._faces if seen.faces else ():
            corner, opposite = (int(x * scale), int(y * scale)), (int((x + width) * scale), int((y + height) * scale))
            cv2.rectangle(picture, corner, opposite, _FACE, 2, cv2.LINE_AA)
        entries = [(_counted(seen.moving_things, "moving thing"), _ACCENT)]
        if seen.faces is not None:
            entries.append((_counted(seen.faces, "face"), _FACE))
        _legend(picture, entries)


def notice(text: str, *, width: int = MAX_WIDTH, height: int = 360) -> Picture:
    """Return a picture that only says ``text``, in ASCII."""
    picture: Picture = np.full((height, width, 3), _PAPER, np.uint8)
    (length, tall), _ = cv2.getTextSize(text, _FONT, 0.7, 1)
    cv2.putText(picture, text, ((width - length) // 2, (height + tall) // 2), _FONT, 0.7, _INK, 1, cv2.LINE_AA)
    return picture


def _legend(picture: Picture, entries: list[tuple[str, tuple[int, int, int]]]) -> None:
    """Say in the lower left corner what the outlines mean, each beside its colour."""
    size = max(0.4, picture.shape[1] / 700)  # to be read on a small tile
    line = int(40 * size)
    widest = max(cv2.getTextSize(text, _FONT, size, 1)[0][0] for text, _ in entries)
    top = picture.shape[0] - line * len(entries) - line // 3
    corner = picture[max(0, top) :, : widest + 2 * line]
    corner //= 4  # dark enough for light letters, whatever is below
    for index, (text, colour) in enumerate(entries):
        base = top + line * (index + 1) - line // 4
        cv2.rectangle(picture, (line // 3, base - line // 3), (line // 3 * 3, base), colour, -1)
        cv2.putText(picture, text, (line // 3 * 4, base), _FONT, size, _INK, 1, cv2.LINE_AA)


def _counted(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def _amount(share: float) -> str:
    if share <= 0:
        return "none"
    return "a little" if share < 0.05 else "some" if share < 0.2 else "a lot"


def _brightness(grey: Any) -> str:
    mean = float(grey.mean())
    return "dark" if mean < 40 else "dim" if mean < 85 else "bright" if mean < 190 else "very bright"


def _colour(picture: Any) -> str:
    tiny = cv2.cvtColor(cv2.resize(picture, (40, 30), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2HSV)
    hue, saturation, value = tiny[..., 0], tiny[..., 1], tiny[..., 2]
    strong = hue[(saturation > 110) & (value > 60)]
    if strong.size < _COLOURFUL_SHARE * hue.size:
        return ""
    names = [next((name for limit, name in _HUES if each < limit), "red") for each in strong.tolist()]
    return max(set(names), key=names.count)
