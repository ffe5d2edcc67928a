"""Cutover and rollback: which gallery is live is said by a pointer file, a small JSON document written atomically.

The serving side reads the pointer, opens the gallery that it names, and embeds queries with the model of the space that
it names: both change together, in one rename. `previous` is the pointer that was there before; rollback puts it back.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fct_fast.errors import CorruptError, StoreError, VerificationError
from fct_fast.fs import FileSystem
from fct_fast.gallery.job.session import Session
from fct_fast.gallery.job.verify import Verification

__all__ = ["cutover_job", "default_live", "is_live", "read_live", "rollback_job"]

FORMAT = 1


def default_live(job: Session) -> Path:
    """The pointer file where none is named: `live.json` beside the sink."""
    return Path(job.plan.sink).with_name("live.json")


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


def cutover_job(job: Session, live: Path, fs: FileSystem) -> dict[str, Any]:
    """Make the upgraded gallery the live one and return the pointer document; again is a no-op.

    Raises VerificationError where the job is not complete and verified as it lies on disk now, StoreError where the
    pointer serves a gallery that this job did not start from.
    """
    _require_verified(job)
    current = read_live(live)
    if current is not None and is_live(job, current):
        job.ledger.note(live={"pointer": str(live), "previous": current["previous"]})
        return current
    if current is not None and current["gallery"] != job.plan.source["old"]:
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
    job.ledger.note(live=None)
    return previous


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
