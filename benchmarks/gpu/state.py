"""The record of the GPU suite: one JSON document that grows stage by stage, and its Markdown."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["FILE", "FOLDER", "Document", "markdown", "so_far"]

FILE = "gpu.json"
FOLDER = "FCT_FAST_GPU_RESULTS"  # tells a stage's process where the document is


@dataclass
class Document:
    """stages: name -> {"outcome": "passed" | "failed" | "timeout", "seconds", "machine", "log", "figures"}."""

    stages: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> Document:
        """The document of earlier runs, empty where there is none."""
        return cls(json.loads(path.read_text())["stages"]) if path.is_file() else cls()

    def write(self, path: Path) -> None:
        """Whole or not at all: a run that is cut off leaves the last stage's document."""
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".tmp")
        beside.write_text(json.dumps({"stages": self.stages}, indent=1) + "\n")
        os.replace(beside, path)  # noqa: PTH105

    def record(self, name: str, result: Mapping[str, Any]) -> None:
        self.stages[name] = dict(result)

    def outcome(self, name: str) -> str:
        return str(self.stages.get(name, {}).get("outcome", "not run"))

    def passed(self) -> set[str]:
        return {name for name in self.stages if self.outcome(name) == "passed"}


def so_far() -> Document:
    """What the stages before this one have found, inside a stage's process."""
    folder = os.environ.get(FOLDER)
    return Document() if folder is None else Document.read(Path(folder) / FILE)


def markdown(document: Document) -> str:
    """The document as tables: the outcomes, then each stage's timings and figures."""
    lines = ["# gpu", "", "| stage | outcome | seconds | on |", "|---|---|---|---|"]
    for name, stage in document.stages.items():
        lines.append(f"| {name} | {stage['outcome']} | {stage['seconds']:.0f} | {_machine(stage)} |")
    for name, stage in document.stages.items():
        for record in stage.get("figures") or []:
            setting = ", ".join(f"{key} = {value}" for key, value in record["setting"].items())
            lines += ["", f"## {name}: {record['name']}", ""] + ([setting, ""] if setting else [])
            if record["timings"]:
                lines += ["| contender | median | best | rounds |", "|---|---|---|---|"]
                lines += [
                    f"| {who} | {_span(t['median_ms'])} | {_span(t['best_ms'])} | {t['rounds']} |"
                    for who, t in record["timings"].items()
                ]
                lines.append("")
            lines += [f"- {what}: {_number(value)}" for what, value in record["figures"].items()]
    return "\n".join(lines).rstrip() + "\n"


def _machine(stage: Mapping[str, Any]) -> str:
    machine = stage.get("machine") or {}
    return ", ".join(str(machine[key]) for key in ("gpu", "driver", "torch") if machine.get(key))


def _span(ms: float) -> str:
    return f"{ms * 1e3:.3g} us" if ms < 1 else f"{ms:.4g} ms"


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
