"""Compression of side-information: fewer bytes per stored item, at a price in retrieval that an experiment shows.

`fit_codec("pca16+int8", rows)` gives a codec; its codes are stored with the items, and h is fitted on and fed with
what it decodes. Needs numpy only (scikit-learn to fit product quantisation).
"""

from fct_fast.side.codec import Codec, fit_codec
from fct_fast.side.file import load_codec, save_codec

__all__ = ["Codec", "fit_codec", "load_codec", "save_codec"]
