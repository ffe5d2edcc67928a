"""Full-ranking evaluation on a GPU. Imports torch."""

from __future__ import annotations

from typing import Any

import torch

from fct_fast.errors import DeviceError
from fct_fast.kernels import native
from fct_fast.kernels.cuda_search import current, on_device

__all__ = ["rank_on_device"]

# Device memory that an evaluation may take beside its arrays.
_SCRATCH_BYTES = 1 << 30


def rank_on_device(
    queries: Any, gallery: Any, metric: str, classes: tuple[Any, ...], ranks: tuple[Any, ...], place: str
) -> None:
    """`native().rank` on the GPU `place`: queries and gallery, of the host or of that GPU, are there as a whole.

    classes, ranks: the arguments and results of the CPU's, numpy arrays. Raises DeviceError where memory runs out.
    """
    device = torch.device(place)
    with current(device):
        try:
            query_rows = on_device(queries, device)
            gallery_rows = query_rows if gallery is queries else on_device(gallery, device)
        except torch.cuda.OutOfMemoryError as error:
            raise DeviceError(
                f"queries {list(queries.shape)} and gallery {list(gallery.shape)} do not fit the free memory of "
                f"{place}; use device='cpu'"
            ) from error
        stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0
        native().cuda_rank(
            device.index or 0, query_rows, gallery_rows, metric, *classes, *ranks, _SCRATCH_BYTES, stream
        )
