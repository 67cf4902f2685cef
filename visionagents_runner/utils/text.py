"""Text from outside on its way to a terminal, a log or a file: what could pass for something else is made visible."""

from __future__ import annotations

import functools
import re
import unicodedata

MAX_NAME_LENGTH = 80

# Control characters (a terminal obeys them); what ends a line for some readers; marks that turn the direction of the
# text around them; what is invisible; lone surrogates, which no file takes. All of it is "not printable" to Python.
_HIDDEN = (
    r"\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb\ud800-\udfff"
    r"\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e00ff"
)
# Persian, Hindi and many emoji cannot be written without these two; elsewhere they only hide.
_JOINERS = r"\u200c\u200d"
_JOINED = rf"[^\x00-\x7f{_HIDDEN}{_JOINERS}]"
_MISPLACED = rf"(?<!{_JOINED})[{_JOINERS}]+|[{_JOINERS}]+(?!{_JOINED})"

_SHOWN = re.compile(rf"[{_HIDDEN}]+|{_MISPLACED}")
_SHOWN_BUT_LINES = re.compile(rf"(?:(?![\n\t])[{_HIDDEN}])+|{_MISPLACED}")

_BLANK = dict.fromkeys(map(ord, "\u115f\u1160\u2800\u3164\uffa0\u034f\u17b4\u17b5"))
"""They count as letters, or the like, and show nothing."""


def visible(text: str) -> str:
    r"""Return ``text``, of any number of lines, with what a reader would not see written out: ``\x1b``, ``\u202e``.

    Line feeds and tabs stay.
    """
    return text if text.isprintable() else _SHOWN_BUT_LINES.sub(_written_out, text)


def one_line(text: str) -> str:
    r"""Return ``text`` as `visible` does, on one line: ``\n`` and ``\t`` are written out too."""
    return text if text.isprintable() else _SHOWN.sub(_written_out, text)


def visible_json(encoded: str) -> str:
    r"""Return JSON, written without ``ensure_ascii``, with the same characters as ``\u202e``: it says the same."""
    return encoded if encoded.isprintable() else _SHOWN.sub(_json_escapes, encoded)


def well_formed(text: str) -> str:
    r"""Return ``text`` with lone surrogates written out (``\ud800``): strict JSON parsers refuse them."""
    return text.encode("utf-8", "backslashreplace").decode()


def clean_name(name: str) -> str:
    """Return ``name`` as it may be shown to others: on one line, of bounded length, without what nobody sees.

    "" if nothing is left of it.
    """
    shown = _SHOWN.sub("", " ".join(name.split())).translate(_BLANK)
    return " ".join(shown.split())[:MAX_NAME_LENGTH].rstrip()


def looks_like(one: str, other: str) -> bool:
    """Whether two names read alike but for capitals, width and accents. Letters of other alphabets are not compared."""
    return (_bare(one) or one) == (_bare(other) or other)


def _bare(name: str) -> str:
    letters = unicodedata.normalize("NFKD", name).casefold()
    return "".join(each for each in letters if not unicodedata.combining(each) and each.isalnum())


def _written_out(found: re.Match[str]) -> str:
    hidden = found[0]
    return _escape(hidden) if len(hidden) == 1 else hidden.encode("unicode_escape").decode()


@functools.cache
def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode()


def _json_escapes(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass").hex()
    return "".join(f"\\u{units[at : at + 4]}" for at in range(0, len(units), 4))
