"""Every error that fct_fast raises on purpose.

Each message is one sentence or two: what is wrong, where, and what to do. The first four classes also exist in
`csrc/core/error.hpp` under the same names; a test holds the two lists together.
"""

__all__ = [
    "BundleError",
    "ConfigError",
    "CorruptError",
    "DeviceError",
    "DtypeError",
    "FctError",
    "JobLockedError",
    "LedgerMismatch",
    "NonFiniteError",
    "ShapeError",
    "SpaceError",
    "StoreError",
    "VerificationError",
]


class FctError(Exception):
    """Base of all errors of this package."""


class ShapeError(FctError, ValueError):
    """Dimensions or row counts do not fit together."""


class DtypeError(FctError, TypeError):
    """A dtype, device or memory layout that is not accepted."""


class DeviceError(FctError, RuntimeError):
    """The compiled kernels, a CPU level or a device is missing or unusable."""


class NonFiniteError(FctError, ValueError):
    """NaN or Inf where only finite numbers make sense; the message names the first bad row."""


class ConfigError(FctError, ValueError):
    """An option or a combination of options that makes no sense."""


class BundleError(FctError, ValueError):
    """A bundle file that is damaged, hostile, or not a bundle."""


class SpaceError(FctError, ValueError):
    """Embeddings of one space or scale were given where another one is expected."""


class StoreError(FctError, OSError):
    """A gallery could not be read or written; what was committed before stays."""


class CorruptError(StoreError):
    """Bytes on disk are not the bytes that were recorded."""


class LedgerMismatch(FctError, ValueError):
    """The job directory belongs to a job with other inputs or options."""


class JobLockedError(FctError, RuntimeError):
    """Another process is running a job in the same directory."""


class VerificationError(FctError, RuntimeError):
    """A check of an upgraded gallery failed, or a step needs a check that has not passed."""
