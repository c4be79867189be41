"""Templates as HTML."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.datastructures import Headers

from client.web.language import LANGUAGES, Messages


def fill(folder: Path, template: str, t: Messages, **values: object) -> str:
    """A page of a template.

    Args:
        folder: Where a service's templates are.
        template: The template's name, without ending.
        t: The words of the page's language.
        values: What the template shows; a name that it misses is an error.
    """
    found = _environment(folder).get_template(f"{template}.html.j2")
    return found.render(t=t, languages=LANGUAGES, **values)


def wants_page(path: str, headers: Headers) -> bool:
    """Whether whoever asks reads pages: a browser, outside the API."""
    return not path.startswith("/api/") and "text/html" in headers.get("accept", "")


@cache
def _environment(folder: Path) -> Environment:
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
