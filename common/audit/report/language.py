"""A page's two languages: a message catalogue each, and how numbers and times are said.

Messages are ours and may hold markup; whatever stands in their placeholders comes from a bundle or
is a number, and is escaped. Text from a bundle shows its invisible characters: nothing in a record
may turn a line around or hide within it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from markupsafe import Markup, escape

TEMPLATES = Path(__file__).parent / "templates"
LANGUAGES: Mapping[str, str] = {"en": "en", "zh": "zh-Hans"}

# Spaces that are no control characters, and that prose of both languages may have.
_SPACES = frozenset("\u00a0\u2009\u202f\u3000")
_SHORT = 240


def visible(text: str) -> str:
    """A text with every character that would not show as itself named by its code point."""
    return "".join(c if c.isprintable() or c in _SPACES else f"⟨U+{ord(c):04X}⟩" for c in text)


def short(text: str) -> str:
    """A foreign text as one line of at most some 240 characters."""
    return visible(text if len(text) <= _SHORT else text[:_SHORT] + "…")


def isolated(text: str) -> Markup:
    """A foreign text in a sentence: escaped, and unable to reorder what stands around it."""
    return Markup("<bdi>{}</bdi>").format(short(text))


def prose(text: str) -> Markup:
    """A foreign text of several lines, escaped, each line isolated."""
    lines = (Markup("<bdi>{}</bdi>").format(visible(line)) for line in text.splitlines())
    return Markup("<br>").join(lines)


class Language:
    """One language of the report, or of another page that is written in both.

    Args:
        code: ``en`` or ``zh``.
        folder: Where the message catalogues are.
    """

    def __init__(self, code: str, folder: Path = TEMPLATES) -> None:
        self.code = code
        self.tag = LANGUAGES[code]
        self._messages = messages(code, folder)
        #: What stands between two sentences: Chinese full stops bring their own room.
        self.sentence_gap = "" if code == "zh" else " "

    def say(self, key: str, **values: object) -> Markup:
        """A message with its placeholders filled in; ``n`` chooses between one and many.

        Raises:
            KeyError: There is no such message, or no value for one of its placeholders.
        """
        if values.get("n") == 1 and f"{key}.one" in self._messages:
            key = f"{key}.one"
        filled = {name: self._value(value) for name, value in values.items()}
        # The format is a message of ours; Markup escapes every value that is no markup.
        return Markup(self._messages[key]).format(**filled)  # noqa: S704

    def knows(self, key: str) -> bool:
        """Whether there is such a message."""
        return key in self._messages

    def term(self, group: str, name: str) -> Markup:
        """A word of a record in this language; a word that is not known stands as it is."""
        key = f"{group}.{name}"
        if key in self._messages:
            return self.say(key)
        return Markup("<code>{}</code>").format(short(name))

    def counted(self, name: str, n: int) -> Markup:
        """So many of something that the verifier counts."""
        if f"count.{name}" in self._messages:
            return self.say(f"count.{name}", n=n)
        return Markup("{} {}").format(integer(n), short(name))

    def verbatim(self, text: str, key: str = "") -> Markup:
        """A sentence of the verifier by its translation, or as it stands if there is none."""
        if key in self._messages:
            return self.say(key)
        return Markup('<span lang="en">{}</span>').format(visible(text))

    def _value(self, value: object) -> object:
        if isinstance(value, bool) or value is None:
            return str(value)
        if isinstance(value, int):
            return integer(value)
        return isolated(value) if type(value) is str else value

    def listed(self, items: list[str]) -> Markup:
        """Names in a sentence, one after the other."""
        return self.say("list.comma").join(isolated(item) for item in items)

    def duration(self, ms: int | None) -> Markup:
        """A length of time in its two largest units."""
        if ms is None:
            return self.say("none")
        if ms < 1000:
            return self.say("duration.ms", x=ms)
        seconds = ms / 1000
        if seconds < 60:
            return self.say("duration.s", x=Markup("{:.1f}").format(seconds))
        minutes = round(seconds / 60)
        if minutes < 60:
            return self.say("duration.min", x=round(minutes))
        if minutes < 48 * 60:
            return self._two("duration.h", minutes // 60, minutes % 60)
        return self._two("duration.d", minutes // 1440, minutes % 1440 // 60)

    def _two(self, key: str, large: int, small: int) -> Markup:
        return self.say(key, x=large, y=small) if small else self.say(f"{key}0", x=large)

    def size(self, n_bytes: int) -> Markup:
        """A number of bytes, rounded."""
        value, unit = float(n_bytes), "B"
        for name in ("kB", "MB", "GB", "TB"):
            if value < 1000:
                break
            value, unit = value / 1000, name
        text = f"{n_bytes}" if unit == "B" else f"{value:.3g}" if value < 100 else f"{value:.0f}"
        return Markup("{}\u00a0{}").format(text, unit)


def integer(value: int) -> str:
    """A whole number with its thousands apart."""
    return f"{value:,}".replace("-", "−")


def moment(text: str) -> Markup:
    """A time of a record, to the second, in UTC."""
    day, _, rest = text.partition("T")
    return Markup("<time datetime='{}'>{} {}</time>").format(
        visible(text), visible(day), visible(rest.partition(".")[0])
    )


def day(text: str) -> Markup:
    """The day of a time of a record, in UTC."""
    return Markup("<time datetime='{}'>{}</time>").format(visible(text), visible(text[:10]))


def epsilon(text: str) -> str:
    """ε with three digits after the point, rounded up: less must not be said than is true."""
    whole, _, fraction = text.partition(".")
    if not re.fullmatch(r"[0-9]+", whole) or not re.fullmatch(r"[0-9]*", fraction):
        return text
    thousandths = int(whole + (fraction + "000")[:3]) + bool(fraction[3:].strip("0"))
    return f"{thousandths // 1000}.{thousandths % 1000:03d}"


def ranges(numbers: list[int]) -> str:
    """Whole numbers with those in a row as ``first–last``."""
    rows: list[list[int]] = []
    for number in sorted(numbers):
        if rows and number == rows[-1][-1] + 1:
            rows[-1].append(number)
        else:
            rows.append([number])
    return ", ".join(f"{row[0]}–{row[-1]}" if len(row) > 1 else f"{row[0]}" for row in rows)


def hash_lines(digest: str) -> Markup:
    """A digest in groups of eight digits, in which two can be compared by eye."""
    groups = [digest[start : start + 8] for start in range(0, len(digest), 8)]
    return Markup(" ").join(escape(visible(group)) for group in groups)


@cache
def messages(code: str, folder: Path = TEMPLATES) -> Mapping[str, str]:
    """The message catalogue of a language, by key."""
    catalogue: Mapping[str, str] = json.loads(
        (folder / f"messages.{code}.json").read_text(encoding="utf-8")
    )
    return catalogue
