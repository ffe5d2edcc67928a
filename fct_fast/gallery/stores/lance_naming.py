"""Which version and which columns of a Lance dataset a place means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from fct_fast.errors import ConfigError, DtypeError
from fct_fast.gallery.stores.arrow import VectorType
from fct_fast.gallery.stores.place import Place
from fct_fast.gallery.stores.protocol import Columns

__all__ = ["Chosen", "choose", "version_of"]

ID = "id"  # the column of ids where none is named


@dataclass(frozen=True)
class Chosen:
    """Names of columns. vectors: "old" and, where it is named, "side"; id: None where there is none; payload: all
    others; notes: for the user."""

    vectors: Mapping[str, str]
    id: str | None
    payload: tuple[str, ...]
    notes: Sequence[str]

    @property
    def rows(self) -> list[str]:
        """All but the payload."""
        return [*self.vectors.values(), *([self.id] if self.id is not None else [])]


def choose(columns: Columns, schema: pa.Schema) -> Chosen:
    """Raises ConfigError where it is not clear which column is meant or one is missing, DtypeError where none holds
    vectors."""
    gallery = Place(columns.old.location)
    for place in filter(None, (columns.side, columns.ids)):
        if place.location != columns.old.location or not place.column:
            raise ConfigError(f"{place} names no column of {gallery}; write it as #COLUMN")
    given = {place.column for place in (columns.old, columns.side, columns.ids) if place is not None and place.column}
    missing = sorted(given - set(schema.names))
    if missing:
        raise ConfigError(f"{gallery} has no column {missing[0]!r:.80}; it has {', '.join(schema.names)}"[:400])
    vectors = {"old": columns.old.column or _only_vectors(gallery, schema, given)}
    if columns.side is not None:
        vectors["side"] = columns.side.column
    notes: list[str] = []
    id_ = columns.ids.column if columns.ids is not None else _usual_ids(gallery, schema, vectors, notes)
    used = [*vectors.values(), *([id_] if id_ is not None else [])]
    if len(set(used)) < len(used):
        raise ConfigError(f"{gallery}: {', '.join(used)} are not different columns; name one for each use")
    return Chosen(vectors, id_, tuple(name for name in schema.names if name not in used), notes)


def version_of(place: Place) -> int | str | None:
    """The version or the tag that a place names, None for the latest. Raises ConfigError."""
    if set(place.options) - {"version", "tag"} or len(place.options) > 1:
        raise ConfigError(f"{place} has the options {sorted(place.options)}; a Lance dataset takes version or tag")
    if "tag" in place.options:
        return place.options["tag"]
    version = place.options.get("version")
    if version is not None and not (version.isascii() and version.isdigit() and 0 < int(version) < 2**63):
        raise ConfigError(f"version is a whole number from 1 on, got {version!r:.80} in {place}")
    return None if version is None else int(version)


def _only_vectors(gallery: Place, schema: pa.Schema, given: set[str]) -> str:
    found = [field.name for field in schema if field.name not in given and VectorType.find(field.type)]
    if not found:
        raise DtypeError(
            f"{gallery} has no column of float32 or float16 vectors; it has {', '.join(schema.names)}"[:400]
        )
    if len(found) > 1:
        raise ConfigError(
            f"{gallery} has several columns of vectors, {', '.join(found)}; name one: {gallery}#{found[0]}"
        )
    return str(found[0])


def _usual_ids(gallery: Place, schema: pa.Schema, vectors: Mapping[str, str], notes: list[str]) -> str | None:
    if ID not in schema.names or ID in vectors.values():
        return None
    type_ = schema.field(ID).type
    type_ = type_.value_type if pa.types.is_dictionary(type_) else type_
    if any(test(type_) for test in (pa.types.is_integer, pa.types.is_string, pa.types.is_large_string)):
        return ID
    notes.append(
        f"The column {ID} of {gallery} is {type_}, neither integer nor text: it travels as payload, ids are row "
        f"positions."
    )
    return None
