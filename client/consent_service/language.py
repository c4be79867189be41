"""The words of the customers' pages."""

from __future__ import annotations

from pathlib import Path

from client.web.language import Messages, read_messages

_FOLDER = Path(__file__).parent / "locales"


def messages(lang: str) -> Messages:
    """The catalogue of a language; one of `client.web.language.LANGUAGES`."""
    return read_messages(_FOLDER, lang)
