"""A Lance dataset on disk: opening it, its files, and what its Rust side says, as sentences.

A dataset is a folder: `data/` holds files that never change, and each version is one small file in `_versions/`, the
manifest, which names the data files of its fragments. Lance writes without fsync; what must stay is flushed here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa

from fct_fast.errors import CorruptError, FctError, StoreError
from fct_fast.fs import FileSystem

__all__ = [
    "CHECKSUMS",
    "blobs_of",
    "clear_folder",
    "content_of",
    "data_files",
    "file_digest",
    "flush",
    "manifest_path",
    "open_dataset",
    "require_digest",
    "scan",
    "schema_of",
    "tags_of",
    "told",
    "wrong_size",
]

CHECKSUMS = "fct_fast.sha256"  # property of the commit of a gallery: those of its files, fragment by fragment
CACHE_BYTES = 64 << 20  # of metadata, for each open dataset; Lance would take gigabytes
READ_AHEAD_BYTES = 64 << 20
BATCH_ROWS = 8192
CHUNK = 4 << 20

_PLACE_IN_RUST = re.compile(r",? ?/[^ ,]*\.rs:\d+:\d+.*", re.DOTALL)
_WRAPPINGS = re.compile(r"^((External|Wrapped|Generic \w+) error: |LanceError\(\w+\): |Invalid user input: )+")
_ERRNO = re.compile(r"os error (\d+)")


@contextlib.contextmanager
def told(what: str, advice: str = "restore it from its origin and run again") -> Iterator[None]:
    """Turn whatever Lance raises, its panics included, into a StoreError: `what`, the reason, `advice`."""
    try:
        yield
    except FctError:
        raise
    except Exception as error:
        raise _failure(what, error, advice) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # pyo3 derives it from BaseException and does not export it
            raise
        raise _failure(what, error, advice) from error


def open_dataset(path: Path, version: int | str | None = None) -> Any:
    """The dataset at a version or tag, by default its latest. Raises StoreError where there is none."""
    if not (path / "_versions").is_dir():
        raise StoreError(f"{path} is no Lance dataset; check the path of the gallery")
    named = "" if version is None else f" at {'tag' if isinstance(version, str) else 'version'} {version!r:.80}"
    with told(f"cannot open {path}{named}", "check the version, or restore the dataset from its origin"):
        return lance.dataset(
            str(path), version, metadata_cache_size_bytes=CACHE_BYTES, index_cache_size_bytes=CACHE_BYTES
        )


def scan(dataset: Any, columns: Sequence[str] | None = None, start: int = 0, rows: int | None = None) -> pa.Table:
    """Rows of a dataset or a fragment in its order, without those that were deleted; blobs as plain binary."""
    scanner = dataset.scanner(
        columns=None if columns is None else list(columns),
        offset=start or None,
        limit=rows,
        batch_size=BATCH_ROWS,
        io_buffer_size=READ_AHEAD_BYTES,
        blob_handling="all_binary",
    )
    return scanner.to_table()


def schema_of(dataset: Any) -> pa.Schema:
    """The schema that `scan` gives."""
    return dataset.scanner(blob_handling="all_binary").projected_schema


def tags_of(path: Path) -> dict[str, Any]:
    """The tags of a dataset, each with its version and metadata."""
    dataset = open_dataset(path)
    with told(f"cannot read the tags of {path}"):
        return dict(dataset.tags.list())


def blobs_of(dataset: Any) -> list[str]:
    """The columns that Lance keeps apart, as blobs."""
    return [
        field.name
        for field in dataset.schema
        if str(field.type).startswith("extension<lance.blob") or b"lance-encoding:blob" in (field.metadata or {})
    ]


def manifest_path(path: Path, version: int) -> Path:
    """The manifest of a version, in either of the two namings that Lance has. Raises StoreError where it is gone."""
    for name in (f"{2**64 - 1 - version:020}.manifest", f"{version}.manifest"):
        if (path / "_versions" / name).exists():
            return path / "_versions" / name
    raise StoreError(f"{path} no longer holds version {version}, which was removed; restore it or start a new job")


def data_files(dataset: Any, path: Path) -> dict[Path, int | None]:
    """The files that hold the rows of this version, fragment by fragment, and their sizes as far as the manifest has
    them; without those that a clone shares with its origin."""
    return {
        path / "data" / file.path: file.file_size_bytes
        for fragment in dataset.get_fragments()
        for file in fragment.metadata.files
        if file.base_id is None
    }


def wrong_size(path: Path, size: int | None) -> str | None:
    """A sentence where a file is missing or has another size than it was written with."""
    if not path.exists():
        return f"{path} is missing"
    there = path.stat().st_size
    return None if size in (None, there) else f"{path} has {there} bytes, but {size} were written"


def content_of(dataset: Any) -> str:
    """A digest that two versions share where they have the same columns, and the same files of rows and deletions."""
    found = [fragment.metadata.to_json() for fragment in dataset.get_fragments()]
    kept = [[fragment[name] for name in ("files", "physical_rows", "deletion_file", "overlays")] for fragment in found]
    columns = dataset.schema.to_string(show_field_metadata=False, show_schema_metadata=False)
    return hashlib.sha256(json.dumps([kept, columns], sort_keys=True, default=str).encode()).hexdigest()


def flush(paths: Iterable[Path], fs: FileSystem) -> None:
    """Put what Lance wrote on disk: the content of files, the names in folders."""
    for path in paths:
        if path.is_dir():
            fs.flush_folder(path)
            continue
        fd = fs.open_file(path)
        try:
            fs.flush(fd, path)
        finally:
            fs.close_file(fd, path)


def file_digest(path: Path, fs: FileSystem) -> str:
    """SHA-256 of a file, in hex."""
    sha, buffer = hashlib.sha256(), memoryview(bytearray(CHUNK))
    fd = fs.open_file(path)
    try:
        size = os.fstat(fd).st_size
        for offset in range(0, size, CHUNK):
            part = buffer[: min(CHUNK, size - offset)]
            fs.read_at(fd, path, part, offset)
            sha.update(part)
    finally:
        fs.close_file(fd, path)
    return sha.hexdigest()


def require_digest(path: Path, sha256: str, fs: FileSystem) -> None:
    """Raise CorruptError where a file does not hold the bytes that were written.

    Lance keeps no checksums, and some damage ends the process when it is read; so this comes first.
    """
    if file_digest(path, fs) != sha256:
        raise CorruptError(f"{path} does not hold the bytes that were written")


def clear_folder(folder: Path, fs: FileSystem) -> None:
    """Delete a folder, if it is there, with all that is in it."""
    if not folder.is_dir():
        return
    for path in sorted(folder.rglob("*"), reverse=True):
        if not path.is_dir():
            fs.remove(path)
    for path in [*sorted((path for path in folder.rglob("*")), reverse=True), folder]:
        with told(f"cannot delete {path}", "check the permissions"):
            path.rmdir()


def _failure(what: str, error: BaseException, advice: str) -> StoreError:
    text = _WRAPPINGS.sub("", _PLACE_IN_RUST.sub("", str(error)).strip().partition("\n")[0])
    failure = StoreError(f"{what}: {text[:200] or type(error).__name__}; {advice}")
    code = _ERRNO.search(str(error))
    failure.errno = int(code[1]) if code else getattr(error, "errno", None)
    return failure
