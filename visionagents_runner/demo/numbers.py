"""Numbers as people say them."""

from __future__ import annotations

import re

_SMALL = {
    word: number
    for number, word in enumerate(
        (
            *(
                "zero",
                "one",
                "two",
                "three",
                "four",
                "five",
                "six",
                "seven",
                "eight",
                "nine",
                "ten",
                "eleven",
                "twelve",
            ),
            *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
        )
    )
}
_TENS = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
_UNITS = [word for word, value in _SMALL.items() if 1 <= value <= 9]
_NUMBER = re.compile(
    rf"\b(?:(?P<tens>{'|'.join(_TENS)})(?:[- ](?P<unit>{'|'.join(_UNITS)}))?|(?P<small>{'|'.join(_SMALL)}))"
    r"(?P<hundred>[- ]hundred)?\b|\ba hundred\b",
    re.IGNORECASE,
)


def with_digits(text: str) -> str:
    """Return ``text`` with the numbers in it, up to ninety-nine and whole hundreds, as digits: "ten" is "10"."""
    return _NUMBER.sub(_digits, text)


def _digits(match: re.Match[str]) -> str:
    if match["tens"]:
        value = _TENS[match["tens"].lower()] + (_SMALL[match["unit"].lower()] if match["unit"] else 0)
    elif match["small"]:
        value = _SMALL[match["small"].lower()]
    else:
        return "100"
    return str(value * 100 if match["hundred"] else value)
