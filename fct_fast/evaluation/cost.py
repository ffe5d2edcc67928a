"""What an upgrade costs, in FLOP and bytes, against running the new model over the raw data again."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from fct_fast.errors import ConfigError
from fct_fast.spec import TransformSpec

__all__ = ["Cost", "CostTable", "cost_table"]


@dataclass(frozen=True)
class Cost:
    """FLOP (a multiply and an add are two), and bytes read from and written to storage. None = not known."""

    flops: int | None
    bytes_read: int | None
    bytes_written: int

    def times(self, rows: int) -> Cost:
        """The cost of so many items."""
        return Cost(
            flops=None if self.flops is None else self.flops * rows,
            bytes_read=None if self.bytes_read is None else self.bytes_read * rows,
            bytes_written=self.bytes_written * rows,
        )


@dataclass(frozen=True)
class CostTable:
    """`upgrade` and `re_embed`: the cost of one item; `upgrade_total` and `re_embed_total`: of the gallery's `rows`.

    `side_bytes`: side-information stored with each item, the price paid in advance, `side_total` for the gallery;
    `stored_before` and `stored_after`: bytes of an item's old embedding and of its new one, side-information included;
    `flops_ratio` and `bytes_read_ratio`: how many times cheaper the upgrade is, None where re-embedding's is not known.
    """

    rows: int
    side_bytes: int
    stored_before: int
    stored_after: int
    upgrade: Cost
    re_embed: Cost

    @property
    def upgrade_total(self) -> Cost:
        return self.upgrade.times(self.rows)

    @property
    def re_embed_total(self) -> Cost:
        return self.re_embed.times(self.rows)

    @property
    def side_total(self) -> int:
        return self.side_bytes * self.rows

    @property
    def flops_ratio(self) -> float | None:
        return _ratio(self.re_embed.flops, self.upgrade.flops)

    @property
    def bytes_read_ratio(self) -> float | None:
        return _ratio(self.re_embed.bytes_read, self.upgrade.bytes_read)

    def to_json(self) -> dict[str, Any]:
        """Everything above as plain numbers, strings and None."""
        names = ("upgrade_total", "re_embed_total")
        return asdict(self) | {name: asdict(getattr(self, name)) for name in names} | {
            "side_total": self.side_total,
            "flops_ratio": self.flops_ratio,
            "bytes_read_ratio": self.bytes_read_ratio,
        }  # fmt: skip


def cost_table(
    spec: TransformSpec,
    *,
    rows: int,
    side_bytes: int,
    re_embed_flops: int | None = None,
    re_embed_bytes: int | None = None,
    bytes_per_value: int = 4,
) -> CostTable:
    """The cost of upgrading a gallery of `rows` items by h against re-embedding it.

    side_bytes: stored side-information of an item, as compressed (0 where h reads none). re_embed_flops: FLOP of the
    new model for one item, re_embed_bytes: its raw data, both the caller's figures, None = not known. bytes_per_value:
    of a stored embedding, 4 for float32. h's own weights are read once and not counted.
    Raises ConfigError for a negative count, or side_bytes that do not fit the spec.
    """
    for name, value, least in (
        ("rows", rows, 0),
        ("side_bytes", side_bytes, 0),
        ("re_embed_flops", re_embed_flops, 0),
        ("re_embed_bytes", re_embed_bytes, 0),
        ("bytes_per_value", bytes_per_value, 1),
    ):
        if value is not None and (isinstance(value, bool) or not hasattr(value, "__index__") or value < least):
            raise ConfigError(f"{name} is {value!r}; use a whole number from {least} up")
    if (side_bytes > 0) != (spec.side_dim > 0):
        reads = f"{spec.side_dim} values of side-information" if spec.side_dim else "no side-information"
        raise ConfigError(f"side_bytes is {side_bytes}, but this transform reads {reads}")
    old_bytes, new_bytes = spec.old_dim * bytes_per_value, spec.new_dim * bytes_per_value
    return CostTable(
        rows=rows,
        side_bytes=side_bytes,
        stored_before=old_bytes + side_bytes,
        stored_after=new_bytes + side_bytes,
        upgrade=Cost(spec.flops_per_row, old_bytes + side_bytes, new_bytes),
        re_embed=Cost(re_embed_flops, re_embed_bytes, new_bytes),
    )


def _ratio(re_embed: int | None, upgrade: int | None) -> float | None:
    """None too where the upgrade costs nothing, since no finite number says how many times cheaper that is."""
    return None if re_embed is None or not upgrade else re_embed / upgrade
