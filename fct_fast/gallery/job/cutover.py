"""Cutover and rollback: a store that can makes the new gallery live itself, in one transaction; elsewhere a pointer
file says which gallery is live, a small JSON document written atomically.

The serving side reads the pointer, opens the gallery that it names, and embeds queries with the model of the space that
it names: both change together, in one rename. `previous` is the pointer that was there before; rollback puts it back.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from fct_fast.errors import ConfigError, CorruptError, StoreError, VerificationError
from fct_fast.fs import FileSystem
from fct_fast.gallery.job.session import Session
from fct_fast.gallery.job.verify import Verification
from fct_fast.gallery.stores import Place
from fct_fast.gallery.stores.protocol import LiveSink

__all__ = ["cutover_job", "default_live", "is_live", "live_in_store", "read_live", "rollback_job"]

FORMAT = 1


def default_live(job: Session) -> Path:
    """The pointer file where none is named: `live.json` beside the sink, or beside the job of a server's gallery."""
    place = Place.parse(job.plan.sink)
    return (job.job_dir if place.scheme else place.path).with_name("live.json")


def read_live(path: str | Path) -> dict[str, Any] | None:
    """The pointer document, None where there is none.

    gallery: path. space: {"model_id", "dim", "normalized", "metric"}. job: which job made it. previous: the pointer
    before. Raises CorruptError where the file is no pointer, StoreError where it cannot be read."""
    path = Path(path)
    try:
        document = json.loads(path.read_bytes())
        if document["format"] != FORMAT or set(document) != {"format", "gallery", "space", "job", "previous"}:
            raise ValueError("other fields")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"cannot read the pointer file {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CorruptError(f"{path} is no pointer file of a live gallery; move it away or name another one") from error
    return dict(document)


def is_live(job: Session, pointer: dict[str, Any] | None) -> bool:
    """Whether a pointer serves the gallery of this job."""
    return pointer is not None and pointer["gallery"] == job.plan.sink and pointer["job"] == job.token


def live_in_store(job: Session) -> bool:
    """Whether the store of the job's sink serves its gallery."""
    return job.sink.capabilities.cutover and cast(LiveSink, job.sink).live


def cutover_job(job: Session, live: Path | None, fs: FileSystem) -> dict[str, Any]:
    """Make the upgraded gallery the live one and return the pointer document; again is a no-op.

    live: the pointer file, None for the default one. Raises VerificationError where the job is not complete and
    verified as it lies on disk now, StoreError where the live gallery is not the one that this job started from.
    """
    if job.sink.capabilities.cutover:
        return _cut_over_in_store(job, live)
    live = live or default_live(job)
    _require_verified(job)
    current = read_live(live)
    if current is not None and is_live(job, current):
        fs.flush_folder(live.parent)  # a cutover that was killed may have renamed without
        job.ledger.note(live={"pointer": str(live), "previous": current["previous"]})
        return current
    if current is not None and not _same_gallery(current["gallery"], job.plan.source["old"]):
        raise StoreError(
            f"{live} serves {current['gallery']}, which is not the gallery that this job upgraded "
            f"({job.plan.source['old']}); name the pointer file of that gallery"
        )
    previous = current or _document(job.plan.source["old"], job.plan.old_space, None, None)
    pointer = _document(job.plan.sink, job.plan.new_space, job.token, previous)
    fs.make_folder(live.parent)
    job.ledger.note(live={"pointer": str(live), "previous": previous})  # first, so that a rollback always knows the way
    _write(live, pointer, fs)
    return pointer


def rollback_job(job: Session, fs: FileSystem) -> dict[str, Any]:
    """Put back the pointer that was there before the cutover and return it.

    A first cutover found no pointer; its rollback leaves one that names the source. Raises VerificationError where the
    job is not live, StoreError where the pointer has moved on since.
    """
    cutover = job.ledger.state.live
    if job.sink.capabilities.cutover:
        return _roll_back_in_store(job)
    if cutover is None:
        raise VerificationError(f"the job in {job.job_dir} is not live, so there is nothing to roll back")
    path, previous = Path(cutover["pointer"]), dict(cutover["previous"])
    current = read_live(path)
    if current is not None and current != previous:
        if not is_live(job, current):
            raise StoreError(
                f"{path} serves {current['gallery']}, not {job.plan.sink}; roll back what came after this job first"
            )
        _write(path, previous, fs)
    elif current is not None:
        fs.flush_folder(path.parent)  # a rollback that was killed may have renamed without
    job.ledger.note(live=None)
    return previous


def _cut_over_in_store(job: Session, live: Path | None) -> dict[str, Any]:
    if live is not None:
        raise ConfigError(f"{job.plan.sink} is made live by its store, not by the pointer file {live}; leave that out")
    previous = _document(job.plan.source["old"], job.plan.old_space, None, None)
    if not live_in_store(job):
        _require_verified(job)
        cast(LiveSink, job.sink).cut_over()
    job.ledger.note(live={"pointer": None, "previous": previous})  # the store itself knows whether it is live
    return _document(job.plan.sink, job.plan.new_space, job.token, previous)


def _roll_back_in_store(job: Session) -> dict[str, Any]:
    if not live_in_store(job):
        job.ledger.note(live=None)
        raise VerificationError(f"the job in {job.job_dir} is not live, so there is nothing to roll back")
    cast(LiveSink, job.sink).roll_back()
    job.ledger.note(live=None)
    return _document(job.plan.source["old"], job.plan.old_space, None, None)


def _same_gallery(served: str, read: str) -> bool:
    """Whether a pointer serves the gallery that a job read, whatever column or version of it the job named."""
    return Place.parse(served).location == Place.parse(read).location


def _require_verified(job: Session) -> None:
    state = job.ledger.state
    if not state.published:
        raise VerificationError(f"the job in {job.job_dir} is not complete; run it to the end and verify it first")
    if state.verification is None:
        raise VerificationError(f"the job in {job.job_dir} is not verified; verify it before the cutover")
    verification = Verification.from_json(state.verification)
    if not verification.passed:
        raise VerificationError(f"the last verification of {job.plan.sink} failed; it is not made live")
    if verification.state != job.sink.state():
        raise VerificationError(f"{job.plan.sink} was changed since it was verified; verify it again")


def _document(
    gallery: str, space: dict[str, Any], token: str | None, previous: dict[str, Any] | None
) -> dict[str, Any]:
    return {"format": FORMAT, "gallery": gallery, "space": space, "job": token, "previous": previous}


def _write(path: Path, pointer: dict[str, Any], fs: FileSystem) -> None:
    fs.write_atomic(path, json.dumps(pointer, indent=1).encode() + b"\n")
