"""Config: the base of all options that a file may hold. Checked when it is made; a key that is not known is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from fct_fast.errors import ConfigError

__all__ = ["Config"]


class Config(BaseModel):
    """Immutable options. A value of the wrong type, out of range or of an unknown name raises ConfigError."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise ConfigError(f"{type(self).__name__}: {_sentence(error, type(self))}") from None

    def replace(self, **changes: Any) -> Self:
        """The same options but for `changes`, checked again."""
        return type(self)(**({name: getattr(self, name) for name in type(self).model_fields} | changes))

    def to_json(self) -> dict[str, Any]:
        """The options as plain JSON values."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        return str(yaml.safe_dump(self.to_json(), sort_keys=False))

    @classmethod
    def from_yaml(cls, text: str | Path, **changes: Any) -> Self:
        """Options from a YAML (or JSON) file, or from its text; what it leaves out has its default. changes: by name,
        in the place of what the file says. Raises ConfigError, also for a file that cannot be read or is no YAML."""
        where = str(text) if isinstance(text, Path) else "the text"
        try:
            values = yaml.safe_load(text.read_text(encoding="utf-8") if isinstance(text, Path) else text)
        except OSError as error:
            raise ConfigError(f"cannot read {where}: {error.strerror}") from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise ConfigError(f"{where} is not valid YAML ({' '.join(str(error).split())[:160]})") from None
        if values is None:
            values = {}
        if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
            raise ConfigError(f"{where} must hold named options, `name: value` a line")
        return cls(**(values | changes))


def _sentence(error: ValidationError, kind: type[BaseModel]) -> str:
    """The first complaint in one sentence."""
    found = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in found["loc"]) or "the options"
    if found["type"] == "extra_forbidden":
        owner: Any = kind
        for part in found["loc"][:-1]:
            owner = getattr(owner, "model_fields", {}).get(part)
            owner = getattr(owner, "annotation", None)
        known = ", ".join(getattr(owner, "model_fields", {}))
        return f"there is no option {name}" + (f"; there are {known}" if known else "")
    if found["type"] == "value_error":  # of a validator, or of options within these
        return f"{name}: {found['ctx']['error']}" if found["loc"] else str(found["ctx"]["error"])
    if found["type"] == "missing":
        return f"{name} is missing"
    return f"{name} must be {found['msg'].removeprefix('Input should be ')}, got {found['input']!r:.80}"
