"""A parsed HTML page: elements, their text, tables. On the standard library's parser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser

_VOID = {"meta", "br", "img", "link", "input", "hr"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    def walk(self) -> Iterator[Element]:
        yield self
        for child in self.children:
            if isinstance(child, Element):
                yield from child.walk()

    def all(self, tag: str) -> list[Element]:
        return [element for element in self.walk() if element.tag == tag]

    def first(self, tag: str) -> Element:
        return self.all(tag)[0]

    @property
    def classes(self) -> set[str]:
        return set(self.attributes.get("class", "").split())

    @property
    def text(self) -> str:
        """Its text with white space collapsed; block ends and breaks count as space."""
        return " ".join("".join(self._pieces()).replace("\N{WORD JOINER}", "").split())

    def _pieces(self) -> Iterator[str]:
        for child in self.children:
            if isinstance(child, str):
                yield child
            elif child.tag not in {"style", "title"}:
                yield from child._pieces()
                if child.tag in {"br", "td", "th", "tr", "p", "dt", "dd", "div", "li", "svg"}:
                    yield " "

    def rows(self) -> list[list[str]]:
        """A table's rows with rowspans filled in."""
        rows: list[list[str]] = []
        held: list[tuple[int, str]] = []
        for row in self.all("tr"):
            cells = [(cell, cell.text) for cell in row.walk() if cell.tag in {"td", "th"}]
            texts = [text for _, text in cells]
            if held and held[0][0] > 0:
                texts = [held[0][1], *texts]
                held[0] = (held[0][0] - 1, held[0][1])
            if cells and "rowspan" in cells[0][0].attributes:
                held = [(int(cells[0][0].attributes["rowspan"]) - 1, cells[0][1])]
            rows.append(texts)
        return rows


class _Parser(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Element("#page", {})
        self._open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs})
        self._open[-1].children.append(element)
        if tag not in _VOID:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open[-1].children.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        if self._open[-1].tag != tag:
            raise ValueError(f"</{tag}> closes <{self._open[-1].tag}>, line {self.getpos()[0]}")
        self._open.pop()

    def handle_data(self, data: str) -> None:
        self._open[-1].children.append(data)


def parse_page(html: str) -> Element:
    """Parses a page; every element must be closed in order.

    Raises:
        ValueError: An end tag does not match.
    """
    parser = _Parser()
    parser.feed(html)
    parser.close()
    if len(parser._open) != 1:
        raise ValueError(f"<{parser._open[-1].tag}> is never closed")
    return parser.root
