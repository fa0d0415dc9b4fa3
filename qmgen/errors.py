"""Errors that qmgen raises: each says what is wrong, where, and what to do about it."""


class QmgenError(Exception):
    """Root of every error that qmgen raises on purpose.

    The command line prints the message of a `QmgenError` without a traceback and exits with a
    non-zero status, so the message must stand alone and name the remedy.
    """


class InputError(QmgenError, ValueError):
    """A file or value that the user gave can't be used."""


class ConfigError(InputError):
    """A run configuration is malformed or contradicts itself."""


class UnknownBasisError(ConfigError):
    """Neither PySCF nor the Basis Set Exchange knows a basis of this name."""


class UnknownFunctionalError(ConfigError):
    """The engine has no functional of this name."""


class UnsupportedMoleculeError(InputError):
    """The engine can't label this molecule (impossible spin, effective core potential, size)."""


class MissingElementError(UnsupportedMoleculeError):
    """The basis has no functions for an element of the molecule."""


class MoleculeParseError(InputError):
    """One record of an input file is no valid molecule."""


class ConformerError(QmgenError, RuntimeError):
    """No conformer of a molecule could be made."""


class StoreError(QmgenError, OSError):
    """A dataset store is missing, damaged or of another kind."""


class StoreUnreachableError(StoreError):
    """The service that a store lies on can't be reached or refuses."""


class StoreIncompleteError(StoreError):
    """The run that writes this store has not finished."""


class StoreMismatchError(StoreError):
    """The output exists and was made with another configuration or input."""


class ClusterError(QmgenError, ConnectionError):
    """The Dask cluster was lost or can't do the work."""


class ValidationError(QmgenError, AssertionError):
    """Stored labels differ from PySCF by more than the stated tolerance."""


class MissingExtraError(QmgenError, ImportError):
    """An optional dependency is needed and not installed."""
