"""Upgrading a Lance dataset in place: its next version has the new vectors, in the same column, and all else as it was.

The upgraded rows are first a dataset of their own, `NAME.fct-TOKEN.lance` beside the live one, which is not touched and
can be verified and searched. Cutover gives their files a second name in the live dataset and commits them as its next
version, in one step; the version before stays, under the tag `fct-before-TOKEN`, for the way back.
"""

from __future__ import annotations

import glob
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa

from fct_fast.errors import ConfigError, StoreError
from fct_fast.fs import FileSystem
from fct_fast.gallery.stores.lance_commit import add_tag, commit_on, link
from fct_fast.gallery.stores.lance_files import (
    CHECKSUMS,
    clear_folder,
    content_of,
    data_files,
    flush,
    open_dataset,
    scan,
    tags_of,
    told,
)
from fct_fast.gallery.stores.lance_published import Published
from fct_fast.gallery.stores.lance_sink import LanceSink
from fct_fast.gallery.stores.lance_table import LanceTable, stored_schema, vector_type
from fct_fast.gallery.stores.place import Place
from fct_fast.gallery.stores.protocol import Capabilities, Layout, Shard

__all__ = ["LanceLiveSink"]

JOB = b"fct_fast.job"  # in the metadata of the schema: whose gallery this is


class LanceLiveSink(LanceSink):
    """The next version of the dataset that is the source; see `protocol.LiveSink`.

    Raises ConfigError where the job would leave rows or columns of the live gallery behind."""

    capabilities = Capabilities(atomic_swap=True, ids=True, payload=True, snapshot=True, cutover=True)

    def __init__(self, place: Place, layout: Layout, token: str, fs: FileSystem) -> None:
        self._live = place.path
        super().__init__(place, self._live.with_name(f"{self._live.stem}.fct-{token}.lance"), layout, token, fs)
        self._annex = self._live.with_name(f"{self._live.stem}.fct-{token}.annex.partial-{token}")
        self._before, self._after = f"fct-before-{token}", f"fct-{token}"
        _require_whole(place, layout)

    @cached_property
    def _table(self) -> LanceTable:
        form, layout = self._layout.form, self._layout
        vector, kept = form["vector"], tuple(name for name in (form["side"],) if name is not None)
        schema = self._as_read.schema
        field = schema.field(vector).with_type(vector_type(layout))
        schema = schema.set(schema.get_field_index(vector), field)
        payload = tuple(name for name in schema.names if name not in (vector, form["id"], *kept))
        return LanceTable(stored_schema(schema, str(self._place)), vector, form["id"], payload, kept)

    @cached_property
    def _as_read(self) -> Any:
        """The dataset as the job reads it."""
        return open_dataset(self._live, self._layout.form["version"])

    @property
    def notes(self) -> Sequence[str]:
        form = self._layout.form
        indices = [
            f"The index {index} is not part of the new version; build it again after the cutover."
            for index in form["indices"]
        ]
        row_ids = ["Rows get other stable row ids (_rowid) with the cutover."] * bool(form["stable_row_ids"])
        kept = "The version before the cutover stays, and takes its space, until its tag fct-before-... is deleted."
        return [*indices, *row_ids, kept]

    def refuse_existing(self) -> None:
        """Raise StoreError where another upgrade waits beside the dataset, or a newer version than was read is live."""
        for path in self._live.parent.glob(f"{glob.escape(self._live.stem)}.fct-*.lance"):
            if path != self._path:
                raise StoreError(
                    f"{path} already exists: another job upgraded this gallery, cut that over first or remove it"
                )
        if self._latest_as_read() is None:
            raise _changed(self._live)

    @property
    def published(self) -> bool:
        return super().published or self._tagged(self._after) is not None

    @property
    def live(self) -> bool:
        return self._token != "" and self._job_of(open_dataset(self._live)) == self._token

    def cut_over(self) -> None:
        if not self.live:
            latest = self._latest_as_read()
            if latest is None or not self._commit_after(latest):
                self._withdraw()
                raise _changed(self._live)
        self._settle()

    def roll_back(self) -> None:
        if not self.live:
            flush([self._live / "_versions"], self._fs)  # a process that was killed may have linked without
            clear_folder(self._annex, self._fs)
            return
        self._settle()
        before, after = self._tagged(self._before), self._tagged(self._after)
        if before is None:
            raise StoreError(f"{self._live} no longer has the tag {self._before}, so the way back is lost")
        latest = open_dataset(self._live)
        if content_of(latest) != content_of(open_dataset(self._live, after)):
            raise StoreError(
                f"{self._live} has changed since the cutover, and a rollback would lose that; take the changes back, "
                f"or restore the tag {self._before} with Lance"
            )
        restore = lance.LanceOperation.Restore(before)
        if not commit_on(self._live, latest.version, restore, self._annex, self._fs, also=(before,)):
            raise _changed(self._live)

    def _home(self) -> Path:
        return self._path if self._tagged(self._after) is None else self._live

    def _open(self) -> Published:
        after = self._tagged(self._after)
        return super()._open() if after is None else Published(self._live, self._layout, self._fs, after)

    def _landed(self) -> bool:
        return super()._landed() or self._tagged(self._after) is not None

    def _stamp(self) -> dict[bytes, bytes]:
        return {JOB: self._token.encode()}

    def _stable_row_ids(self) -> bool:
        return False  # else the fragments would bring ids along; the live dataset gives its own

    def _kept(self, shard: Shard) -> pa.Table | None:
        if not self._table.kept:
            return None
        with told(f"cannot read rows {shard.start} to {shard.stop - 1} of {self._live}"):
            return scan(self._as_read, self._table.kept, shard.start, shard.rows)

    def _latest_as_read(self) -> int | None:
        """The latest version of the live dataset, None where its rows are not those that the job read."""
        latest = open_dataset(self._live)
        return int(latest.version) if content_of(latest) == content_of(self._as_read) else None

    def _commit_after(self, latest: int) -> bool:
        """Make the new gallery the version after `latest`; False where somebody else made that."""
        add_tag(self._live, self._before, latest, self._annex, self._fs)
        new, after = self._open(), self._tagged(self._after)
        if after is None:
            self._share_files()
            fragments = [fragment.metadata for fragment in new.dataset.get_fragments()]
            operation = lance.LanceOperation.Overwrite(new.dataset.schema, fragments)
        else:  # it was live before, and was rolled back
            operation = lance.LanceOperation.Restore(after)
        also = () if after is None else (after,)
        checksums = {CHECKSUMS: new.checksums}
        return commit_on(self._live, latest, operation, self._annex, self._fs, properties=checksums, also=also)

    def _share_files(self) -> None:
        """Give the data files of the new gallery a second name in the live dataset."""
        self._fs.make_folder(self._live / "data")
        for path in data_files(open_dataset(self._path), self._path):
            link(path, self._live / "data" / path.name, self._fs)
        flush([self._live / "data"], self._fs)

    def _withdraw(self) -> None:
        """Take back what a cutover that was not made has put into the live dataset, where it was never live before."""
        if self._tagged(self._after) is None and self._path.exists():
            for path in data_files(open_dataset(self._path), self._path):
                self._fs.remove(self._live / "data" / path.name)
            self._fs.remove(self._live / "_refs" / "tags" / f"{self._before}.json")

    def _settle(self) -> None:
        """Finish a cutover, also after a crash: tag the new version, and remove the dataset beside, which is in it."""
        names = ["_versions", "_refs/tags", "data"]  # a process that was killed may have put names there without
        flush([folder for folder in map(self._live.joinpath, names) if folder.is_dir()], self._fs)
        before = self._tagged(self._before)
        if before is not None and self._tagged(self._after) != before + 1:
            if self._path.exists():  # a cleanup may have met its files before the commit did
                self._share_files()
            add_tag(self._live, self._after, before + 1, self._annex, self._fs)
        self.close()
        clear_folder(self._path, self._fs)
        clear_folder(self._annex, self._fs)

    def _tagged(self, tag: str) -> int | None:
        """The version of the live dataset that carries a tag."""
        found = tags_of(self._live).get(tag)
        return None if found is None else int(found["version"])

    def _job_of(self, dataset: Any) -> str:
        metadata: dict[bytes, bytes] = dataset.schema.metadata or {}
        return metadata.get(JOB, b"").decode("ascii", "replace")


def _require_whole(place: Place, layout: Layout) -> None:
    form = layout.form
    if place.column not in ("", form["vector"]):
        raise ConfigError(
            f"{place} is another column than was read ({form['vector']}); in place, the new vectors replace the old "
            f"ones, so name that column or a new dataset"
        )
    if layout.rows != form["rows"]:
        raise ConfigError(
            f"{place} would keep {layout.rows} of {form['rows']} rows; a gallery is upgraded in place as a whole, so "
            f"leave out the limit or choose a new dataset"
        )
    others = set(form["columns"]) - {form["vector"], form["id"], form["side"]}
    travelling = set(pa.ipc.read_schema(pa.py_buffer(layout.payload)).names) if layout.payload else set()
    if others != travelling:
        raise ConfigError(
            f"{place} would lose the columns {', '.join(sorted(others - travelling))}; in place all columns stay, so "
            f"do not drop the payload, or choose a new dataset"
        )
    if form["blobs"]:
        raise ConfigError(
            f"{place} has blobs in {', '.join(form['blobs'])}, which would become plain binary values; choose a new "
            f"dataset"
        )


def _changed(path: Path) -> StoreError:
    return StoreError(
        f"the live gallery {path} is not the one that the job read, as others have changed it since; nothing was "
        f"changed now; run a new job on it"
    )
