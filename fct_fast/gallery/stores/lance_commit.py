"""Commits to a Lance dataset that others read and write, on disk before anybody sees them.

Lance writes a manifest, makes it visible by a hard link that fails where the version exists already, and never calls
fsync: after a power cut the newest manifest may be empty, and the dataset unreadable. So a commit is made in an annex,
a folder that holds nothing but the manifests it builds on; what Lance wrote there is flushed, and joins the dataset by
the same link. Whoever committed in the meantime has taken the version, and nothing changes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import lance

from fct_fast.errors import StoreError
from fct_fast.fs import FileSystem
from fct_fast.gallery.stores.lance_files import clear_folder, flush, manifest_path, open_dataset, told

__all__ = ["add_tag", "commit_on", "link"]


def commit_on(
    path: Path,
    version: int,
    operation: Any,
    annex: Path,
    fs: FileSystem,
    *,
    properties: dict[str, str] | None = None,
    also: Collection[int] = (),
) -> bool:
    """Commit `operation` as the version after `version`; False, with nothing changed, where that exists already.

    annex: a folder for use on the way, in the file system of the dataset. properties: of the commit. also: versions
    that the operation refers to.
    """
    with _annexed(path, {version, *also}, annex, fs):
        with told(f"cannot commit to {path}", "nothing was changed"):
            transaction = lance.Transaction(version, operation, transaction_properties=properties or {})
            lance.LanceDataset.commit(str(annex), transaction, max_retries=0)
        manifest = manifest_path(annex, version + 1)
        transactions = sorted((annex / "_transactions").iterdir())
        flush([manifest, *transactions], fs)
        fs.make_folder(path / "_transactions")
        for transaction in transactions:
            fs.publish(transaction, path / "_transactions" / transaction.name)
        if not link(manifest, path / "_versions" / manifest.name, fs):
            for transaction in transactions:
                fs.remove(path / "_transactions" / transaction.name)
            return False
        flush([path / "_versions"], fs)
        return True


def add_tag(path: Path, tag: str, version: int, annex: Path, fs: FileSystem) -> None:
    """Put a tag on a version, or move it there."""
    with _annexed(path, {version}, annex, fs):
        with told(f"cannot tag version {version} of {path}", "nothing was changed"):
            open_dataset(annex).tags.create(tag, version)
        made = annex / "_refs" / "tags" / f"{tag}.json"
        flush([made], fs)
        fs.make_folder(path / "_refs" / "tags")
        fs.publish(made, path / "_refs" / "tags" / made.name)


def link(source: Path, target: Path, fs: FileSystem) -> bool:
    """Give a file a second name; False where that name is taken."""
    with told(f"cannot link {source} to {target}", "the dataset must lie in a file system that has hard links"):
        try:
            fs.link(source, target)
        except FileExistsError:
            return False
    return True


@contextlib.contextmanager
def _annexed(path: Path, versions: Collection[int], annex: Path, fs: FileSystem) -> Iterator[None]:
    clear_folder(annex, fs)  # of a process that was killed
    fs.make_folder(annex / "_versions")
    for version in versions:
        manifest = manifest_path(path, version)
        link(manifest, annex / "_versions" / manifest.name, fs)
    try:
        yield
    except BaseException:
        with contextlib.suppress(StoreError):
            clear_folder(annex, fs)
        raise
    clear_folder(annex, fs)
