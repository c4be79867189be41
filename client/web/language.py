"""The pages' languages: catalogues of messages, and which one a visitor gets."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from types import MappingProxyType

from common.errors import FormatError
from common.timestamps import parse_time

#: The languages that there are catalogues of, the default first, by their own names.
LANGUAGES: Mapping[str, str] = MappingProxyType({"en": "English", "zh": "中文"})
DEFAULT = "en"
#: The cookie that keeps the language that was chosen on a page.
LANGUAGE_COOKIE = "fedpref-lang"
_RANGE = re.compile(
    r"\s*([A-Za-z]{1,8}|\*)(?:-[A-Za-z0-9-]*)?\s*(?:;\s*q\s*=\s*([01](?:\.[0-9]{0,3})?))?\s*"
)
_MAX_RANGES = 20


@dataclass(frozen=True)
class Messages:
    """One language's catalogue.

    Attributes:
        lang: Its tag, as the ``lang`` attribute has it.
        texts: Every message by its key.
    """

    lang: str
    texts: Mapping[str, str]

    def __call__(self, key: str, **values: object) -> str:
        """A message with its values filled in."""
        text = self.texts[key]
        return text.format(**values) if values else text

    def known(self, key: str, otherwise: str) -> str:
        """A message that may be missing: names of what others define, such as purposes."""
        return self.texts.get(key, otherwise)

    def moment(self, time: str) -> str:
        """A record's time as people of this language write it, in UTC."""
        moment = datetime.fromtimestamp(parse_time(time) / 1000, tz=UTC)
        if self.lang == "zh":
            return f"{moment.year}年{moment.month}月{moment.day}日 {moment:%H:%M} UTC"
        return f"{moment.day} {moment:%B %Y, %H:%M} UTC"


@cache
def read_messages(folder: Path, lang: str) -> Messages:
    """The catalogue of a language.

    Args:
        folder: Where a service's catalogues are.
        lang: One of `LANGUAGES`.

    Raises:
        FormatError: The catalogue's file is not one.
    """
    texts = json.loads((folder / f"{lang}.json").read_text(encoding="utf-8"))
    if not isinstance(texts, dict) or not all(type(text) is str for text in texts.values()):
        raise FormatError(f"The catalogue {lang}.json is not an object of texts.")
    return Messages(lang, MappingProxyType(texts))


def negotiate(accepted: str | None, chosen: str | None) -> str:
    """The language to answer in.

    Args:
        accepted: The ``Accept-Language`` header, whatever it holds.
        chosen: What the visitor chose on the page, if anything.
    """
    if chosen is not None and chosen in LANGUAGES:
        return chosen
    best, best_quality = DEFAULT, 0.0
    for part in (accepted or "")[:1000].split(",")[:_MAX_RANGES]:
        match = _RANGE.fullmatch(part)
        if match is None:
            continue
        lang, quality = match[1].lower(), float(match[2] or 1)
        if lang in LANGUAGES and quality > best_quality:
            best, best_quality = lang, quality
    return best
