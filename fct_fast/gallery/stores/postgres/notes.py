"""What a plan says of the table that will be written, in sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fct_fast.gallery.stores.place import Place
from fct_fast.gallery.stores.postgres.database import Database
from fct_fast.gallery.stores.postgres.design import Design
from fct_fast.gallery.stores.postgres.obstacles import generated_from
from fct_fast.gallery.stores.postgres.staging import checks_of, source_of
from fct_fast.gallery.stores.postgres.twins import Twin
from fct_fast.gallery.stores.protocol import Layout

__all__ = ["notes_of"]


def notes_of(db: Database, place: Place, design: Design, layout: Layout, twins: Sequence[Twin]) -> Iterator[str]:
    for name in ("fsync", "full_page_writes"):
        if db.one("SELECT current_setting(%s)", [name])[0] == "off":
            yield f"The server of {place.name} runs with {name} off: a power cut there can lose what was committed."
    if layout.form.get("store") == "postgres" and not design.swap:
        yield (
            f"{place.name} will not take the name of {layout.form['table']}, because {_why(place, design)}; a pointer "
            f"file says which of them is live."
        )
    for twin in twins:
        if twin.reason:
            yield f"{place.name} gets no index like {twin.original}: {twin.reason}."
    if design.source is None:
        return
    source = source_of(db, design)
    vector = source.column(str(layout.form["vector"]))
    if vector is None:
        return
    for check in checks_of(db, source, vector):
        yield f"{place.name} gets no constraint like {check}, which looks at the old vectors."
    for name in generated_from(db, source, vector.number):
        yield f"{place.name} gets no column like {name}, which is generated from the old vectors."


def _why(place: Place, design: Design) -> str:
    if "swap" in place.options:
        return "the sink says swap=no"
    return "it is not of the same columns in the same database" if design.source is None else "it lacks rows"
