"""What the tests of Upgrader share."""

from __future__ import annotations


def pair(rows, n, old_dim, side_dim, seed=0):
    return rows(n, old_dim, seed), rows(n, side_dim, seed + 1) if side_dim else None
