"""Digits: scikit-learn's 1797 scanned handwritten digits, 8 x 8 pixels. Real images that need no download.

An item is one scan. One scan in HELD_OUT_EVERY is kept for evaluation, in the order of the file, which mixes writers
and digits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["HELD_OUT_EVERY", "digit_items"]

HELD_OUT_EVERY = 3


def digit_items(*, held_out: bool) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Pictures uint8 [n, 8, 8] with ink 255, and digits int64 [n], of the training or the held-out items."""
    from sklearn.datasets import load_digits  # scikit-learn takes a second to import, and only this data set needs it

    data = load_digits()
    chosen = (np.arange(len(data.target)) % HELD_OUT_EVERY == 0) == held_out
    pictures = np.rint(data.images[chosen] * (255 / 16)).astype(np.uint8)
    return pictures, data.target[chosen].astype(np.int64)
