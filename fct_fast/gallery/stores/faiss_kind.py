"""What kind of FAISS index a gallery is written as."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from fct_fast.errors import ConfigError
from fct_fast.gallery.stores.faiss_layout import Metric
from fct_fast.gallery.stores.place import Place
from fct_fast.gallery.stores.protocol import Layout

__all__ = ["OPTIONS", "Kind"]

OPTIONS = ("index", "metric")  # of a place

_PATTERN = re.compile(r"(?:(IDMap2?),)?(?:Flat|IVF([1-9]\d{0,8})(?:_HNSW(\d{0,3}))?,Flat|HNSW(\d{0,3})(?:,Flat)?)")
_NEIGHBOURS = 32  # FAISS's own default
_MOST = {"nprobe": 1 << 20, "efSearch": 4096, "efConstruction": 4096}  # larger settings are those of a damaged file


@dataclass(frozen=True)
class Kind:
    """metric. id_map: "IDMap" or "IDMap2" where ids are kept beside the rows, "" where there are none or an IVF keeps
    them. lists: of an IVF, else 0. neighbours: of HNSW, or of an IVF's coarse quantiser; 0 where there is none.
    settings: what FAISS stores along with an index for building and searching, by its own names."""

    metric: Metric
    id_map: str
    lists: int
    neighbours: int
    settings: Mapping[str, int]

    @classmethod
    def of(cls, place: Place, layout: Layout) -> Kind:
        """The kind that the place asks for, else that of the source, else Flat. Raises ConfigError for what cannot
        be."""
        where = place.location
        for name in place.options:
            if name not in OPTIONS:
                raise ConfigError(f"{where} has the option {name!r:.80}; a FAISS index takes {' and '.join(OPTIONS)}")
        form: Mapping[str, Any] = layout.form if layout.form.get("store") == "faiss" else {}
        asked = place.options.get("index")
        text = str(form.get("index", "Flat")) if asked is None else asked
        metric = place.options.get("metric", form.get("metric", "ip"))
        if metric not in get_args(Metric):
            raise ConfigError(f"metric={metric!r:.80} of {where} is none; choose ip (inner product) or l2")
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise ConfigError(
                f"index={text!r:.80} of {where} is not written, as rows are kept whole; choose Flat, IVF<lists>,Flat "
                f"or HNSW<neighbours>, and compress the upgraded index afterwards"
            )
        id_map, lists, neighbours = match[1] or "", int(match[2] or 0), 0
        if "HNSW" in text:
            neighbours = int(match[3] or match[4] or _NEIGHBOURS)
            if not 2 <= neighbours <= 512:
                raise ConfigError(f"index={text} of {where} has {neighbours} neighbours a row; choose from 2 to 512")
        if lists > layout.rows:
            raise ConfigError(f"index={text} of {where} has {lists} lists for {layout.rows} rows; choose fewer")
        if layout.ids_dtype is None:
            id_map = ""  # ids are positions, as FAISS has them anyway
        elif not lists:
            id_map = id_map or "IDMap"
        used = ("nprobe",) if lists else ("efSearch", "efConstruction") if neighbours else ()
        known = {} if asked is not None else {name: form[name] for name in used if isinstance(form.get(name), int)}
        return cls(metric, id_map, lists, neighbours, {k: v for k, v in known.items() if 1 <= v <= _MOST[k]})

    @property
    def flat(self) -> bool:
        """Whether the rows one after the other are all of it."""
        return not self.lists and not self.neighbours

    @property
    def factory(self) -> str:
        """As `faiss.index_factory` names it."""
        graph = f"HNSW{self.neighbours}" if self.neighbours else ""
        name = f"IVF{self.lists}{'_' * bool(graph)}{graph},Flat" if self.lists else graph or "Flat"
        return f"{self.id_map},{name}" if self.id_map else name

    @property
    def own_ids(self) -> bool:
        """Whether ids, where there are any, are kept by the lists of an IVF, which forget the order of rows."""
        return bool(self.lists) and not self.id_map
