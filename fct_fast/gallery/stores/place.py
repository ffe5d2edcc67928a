"""Places: how a gallery, or one column of it, is named on the command line and in the API.

`LOCATION[?option=value&...][#column]`, where LOCATION is a path or a URI: `old.npy`, `items.parquet#embedding`,
`new.faiss?index=HNSW32`, `postgresql://host/db?table=items#embedding`. `#column` alone means another column of the
place that it stands beside.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias
from urllib.parse import parse_qsl, quote

from fct_fast.errors import ConfigError

__all__ = ["Place", "PlaceLike", "absolute"]

_OPTIONS = re.compile(r"\?(?=[a-z_]+=)")  # a pattern of file names may have a question mark, too
_URI = re.compile(r"([a-z][a-z0-9+.-]+)://(.*)", re.DOTALL)


@dataclass(frozen=True)
class Place:
    """A location (an absolute path, links resolved, or a URI without its options), its options, and a column ("" where
    none is named)."""

    location: str
    options: Mapping[str, str] = field(default_factory=dict)
    column: str = ""

    @classmethod
    def parse(cls, text: PlaceLike, beside: Place | None = None) -> Place:
        """Read a place. beside: what a bare `#column` refers to.

        Raises ConfigError for text that is no place, and for a URI with a password in it, which a job's ledger would
        keep.
        """
        if isinstance(text, Place):
            return text
        text = os.fspath(text)
        if not text or "\0" in text:
            raise ConfigError(f"{text!r} names no place; give a path or a URI")
        uri = _URI.fullmatch(text)
        if not uri and os.path.lexists(text):  # a file may be called what looks like a column or an option
            return cls(str(absolute(text)))
        # A folder may be called what looks like a column or an option, so these are looked for in the last part only.
        cut = 0 if uri else text.rfind("/") + 1
        body, column = _cut_last(text, "#", cut)
        if not body:
            if beside is None:
                raise ConfigError(f"{text!r} names a column but no gallery; write it as GALLERY{text}")
            return cls(beside.location, beside.options, column)
        found = _OPTIONS.search(body, cut)
        location, query = (body[: found.start()], [body[found.end() :]]) if found else (body, [])
        options = dict(parse_qsl(query[0], keep_blank_values=True)) if query else {}
        if not uri:
            return cls(str(absolute(location)), options, column)
        if "@" in location and ":" in location.split("://")[1].rpartition("@")[0]:
            raise ConfigError(
                f"{re.sub(':[^:@/]*@', ':...@', location)} holds a password, which the job's ledger would keep; leave "
                f"it out and set it where the client looks for it (for PostgreSQL: PGPASSWORD or ~/.pgpass)"
            )
        return cls(location, options, column)

    @property
    def scheme(self) -> str:
        """ "postgresql" of a URI; "" for a path."""
        uri = _URI.fullmatch(self.location)
        return uri[1] if uri else ""

    @property
    def path(self) -> Path:
        """The location as a path. Raises ConfigError for a URI."""
        if self.scheme:
            raise ConfigError(f"{self} is no path of a file; give one")
        return Path(self.location)

    @property
    def name(self) -> str:
        """The last part of the location; where a table is named, its name."""
        return self.options.get("table") or self.location.rstrip("/").rpartition("/")[2]

    @property
    def gallery(self) -> Place:
        """The place without its column."""
        return Place(self.location, self.options)

    def beside(self, suffix: str) -> Path:
        """A path for what goes along with this gallery: beside a file; of a server, in the working directory."""
        return Path.cwd() / f"{self.name}{suffix}" if self.scheme else self.path.with_name(self.path.name + suffix)

    def __str__(self) -> str:
        query = "&".join(f"{quote(name)}={quote(value, safe='/,.')}" for name, value in self.options.items())
        return self.location + (f"?{query}" if query else "") + (f"#{self.column}" if self.column else "")


PlaceLike: TypeAlias = str | os.PathLike[str] | Place


def _cut_last(text: str, mark: str, start: int) -> tuple[str, str]:
    """What stands before and after the last mark from `start` on; all and nothing where there is none."""
    at = text.rfind(mark, start)
    return (text, "") if at < 0 else (text[:at], text[at + 1 :])


def absolute(path: str | os.PathLike[str]) -> Path:
    """The path with links resolved, so that two names of one place compare equal."""
    return Path(os.path.realpath(path))
