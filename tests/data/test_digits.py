"""Digits: every scan is in one of the two parts, and the parts look alike."""

import numpy as np

from fct_fast.data.digits import HELD_OUT_EVERY, digit_items


def test_the_parts_share_out_all_scans() -> None:
    train, labels = digit_items(held_out=False)
    held_out, held_out_labels = digit_items(held_out=True)
    assert len(train) + len(held_out) == 1797
    assert len(held_out) == -(-1797 // HELD_OUT_EVERY)
    assert train.dtype == held_out.dtype == np.uint8
    assert train.shape[1:] == (8, 8)
    assert train.max() == 255
    for part in (labels, held_out_labels):
        assert (np.bincount(part, minlength=10) > 0.08 * len(part)).all()
