"""What the report and other pages look like: one style sheet, fonts inside it, nothing loaded."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from pathlib import Path

from common.audit.report.language import TEMPLATES

# Chinese is set in a font of the reader's: one that has all its characters is too large to carry.
_GREEK = "U+0370-03FF"
_LATIN = "U+0000-036F,U+1E00-2BFF"
_FONTS = (
    ("Source Sans 3", "source-sans-3-latin.woff2", _LATIN),
    ("Source Sans 3", "source-sans-3-greek.woff2", _GREEK),
    ("Source Serif 4", "source-serif-4-latin.woff2", _LATIN),
)


@cache
def style_sheet(*more: Path) -> str:
    """The report's style sheet with its fonts, and what another page adds to it.

    Args:
        more: Further style sheets, in order: files of ours.
    """
    fonts = "".join(
        f'@font-face{{font-family:"{family}";font-weight:200 900;font-display:block;'
        f"unicode-range:{characters};src:url(data:font/woff2;base64,{_base64(file)}) "
        'format("woff2")}\n'
        for family, file, characters in _FONTS
    )
    sheets = (TEMPLATES / "report.css", *more)
    return fonts + "".join(each.read_text(encoding="utf-8") for each in sheets)


def content_policy(style: str) -> str:
    """The content security policy of a page: that style sheet, its fonts, and nothing else."""
    digest = base64.b64encode(hashlib.sha256(style.encode("utf-8")).digest()).decode("ascii")
    return (
        f"default-src 'none'; style-src 'sha256-{digest}'; font-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _base64(file: str) -> str:
    return base64.b64encode((TEMPLATES / file).read_bytes()).decode("ascii")
