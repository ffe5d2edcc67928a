"""Templates to pages. Everything that goes into a page is escaped, except the drawings of `fct_fast.report.svg`."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import jinja2
import numpy as np
import numpy.typing as npt

from fct_fast.report import text

__all__ = ["data_uri", "render"]


def render(template: str, **context: Any) -> str:
    """The page of a template in `fct_fast/report/templates`. A name that the context lacks is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("fct_fast.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update({name: _unbroken(getattr(text, name)) for name in text.__all__}, data_uri=data_uri)
    return environment.get_template(template).render(**context)


def _unbroken(write: Callable[..., str]) -> Callable[..., str]:
    """Numbers keep their unit on their line."""
    return lambda *arguments: write(*arguments).replace(" ", "\u00a0")


def data_uri(image: npt.NDArray[np.uint8]) -> str:
    """A grey picture uint8 [height, width] as a PNG inside a URI."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
