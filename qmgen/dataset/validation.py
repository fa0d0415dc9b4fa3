"""Outcome of a comparison of stored labels with reference values, as a file beside the store."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from qmgen.dataset.manifest import MANIFEST, entries
from qmgen.dataset.output import check_output, replace_file
from qmgen.dataset.reader import Dataset
from qmgen.errors import InputError


@dataclass(frozen=True)
class LabelError:
    """Differences of one label from PySCF over a sample, in the unit that is named."""

    label: str
    unit: str
    mean_absolute: float
    maximum: float
    tolerance: float
    worst_row: int

    @property
    def passed(self) -> bool:
        """Whether the largest difference is within the tolerance; NaN is not."""
        return self.maximum <= self.tolerance


@dataclass(frozen=True)
class ValidationReport:
    """Differences by label; ``not_converged`` counts rows whose PySCF run did not converge."""

    errors: tuple[LabelError, ...]
    conformers: int
    not_converged: int

    @property
    def passed(self) -> bool:
        """Whether every label is within its tolerance on every row that could be compared."""
        return self.conformers > self.not_converged and all(e.passed for e in self.errors)


class _File(BaseModel):
    # JSON has no NaN, which is what an error is where a stored label is no number.
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")

    qmgen_kind: Literal["qmgen-validation"] = "qmgen-validation"
    store: str
    manifest_sha256: str
    report: ValidationReport


def write_validation(
    report: ValidationReport, dataset: Dataset, path: str | os.PathLike[str]
) -> None:
    """Write the outcome as JSON, together with what identifies the store: its list of checksums.

    Raises
    ------
    InputError
        The file's name doesn't end in .json, or it can't be written.
    """
    path = Path(path)
    check_output(path, ".json")
    content = _File(store=dataset.path.name, manifest_sha256=_identity(dataset), report=report)
    replace_file(path, content.model_dump_json(indent=2) + "\n")


def read_validation(path: str | os.PathLike[str], dataset: Dataset) -> ValidationReport:
    """Read the outcome of `write_validation`.

    Raises
    ------
    InputError
        The file can't be read, has another content, or is about another store.
    """
    path = Path(path)
    try:
        file = _File.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path}: can't be read ({error.strerror or error}); make it with "
            f"qmgen validate {dataset.path} --out {path}"
        ) from error
    except (ValidationError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: not the outcome of qmgen validate; make it with "
            f"qmgen validate {dataset.path} --out {path}"
        ) from error
    if file.manifest_sha256 != _identity(dataset):
        raise InputError(
            f"{path} is about another dataset ({file.store}) than {dataset.path}; make it with "
            f"qmgen validate {dataset.path} --out {path}"
        )
    return file.report


def _identity(dataset: Dataset) -> str:
    return entries(dataset.path, [MANIFEST])[MANIFEST].sha256
