"""A page, taken apart by the standard library's parser."""

from __future__ import annotations

import re
from html.parser import HTMLParser

VOID = {"meta", "img", "br", "line", "rect", "circle", "polyline", "link", "hr", "input"}
LOADING = {"src", "href", "srcset", "data", "action", "poster", "background", "xlink:href"}


class Page(HTMLParser):
    """loads: what a browser would fetch; scripts: elements and attributes that run code; text: all of it."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.loads: list[str] = []
        self.scripts: list[str] = []
        self.images = 0
        self.text = ""
        self.tags: list[str] = []
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open, f"never closed: {self._open}"
        self.loads += re.findall(r"@import[^;]*|url\((?!['\"]?data:)[^)]*\)", html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self._open.append(tag)
        if tag in ("script", "iframe", "object", "embed"):
            self.scripts.append(tag)
        for name, value in attrs:
            if name in LOADING and not (value or "").startswith("data:"):
                self.loads.append(f"{tag} {name}={value}")
            if name.startswith("on"):
                self.scripts.append(f"{tag} {name}")
        self.images += tag == "img"

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
