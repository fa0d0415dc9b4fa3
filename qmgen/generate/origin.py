"""How a finished store was made, to make more of it or the same again."""

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from qmgen.dataset import StoreMetadata, open_dataset
from qmgen.dft.orbital_guess import OrbitalGuess
from qmgen.errors import StoreError, StoreMismatchError
from qmgen.generate.config import Overrides, RunConfig


def stored_run_config(
    store: Path, metadata: StoreMetadata, guess: OrbitalGuess | None
) -> RunConfig:
    """Give the configuration of the run that made a store.

    Parameters
    ----------
    store
        Its folder, for messages.
    metadata
        What it says about itself.
    guess
        Predicts orbitals to start from; must be that of the run.

    Raises
    ------
    StoreMismatchError
        The run had another `guess`, or the store has none.
    StoreError
        The labels are imported, or the configuration can't be read.
    """
    origin = metadata.provenance
    if origin.imported is not None:
        raise StoreError(
            f"{store}: its labels come from {origin.imported.dataset}, not from qmgen, so they "
            "can't be made again; import it to another output"
        )
    science = {name: value for name, value in origin.config.items() if name != "guess"}
    try:
        config = RunConfig.model_validate(science)
    except ValidationError as error:
        raise StoreError(
            f"{store}: its configuration can't be read ({error.errors()[0]['msg']}); use qmgen "
            f"{origin.versions.get('qmgen', 'of the time')}"
        ) from error
    if origin.config.get("guess") != (None if guess is None else guess.identity):
        raise StoreMismatchError(
            f"{store} was made {'with another' if guess else 'with a'} network that predicts "
            "orbitals, or without; give --guess as its run did"
        )
    return config


def level_overrides(store: str, overrides: Overrides) -> Overrides:
    """Give values that make a configuration the store's own where they say nothing else.

    Of the sections that a level consists of; see `qmgen.generate.append_labels`.

    Raises
    ------
    StoreError
        There is no complete store.
    """
    config = open_dataset(store).metadata.provenance.config
    own: Any = config.get("dft")
    if not isinstance(own, dict) or overrides[""].get("method") == "mmff94":
        return overrides
    given = {name: value for name, value in overrides["dft"].items() if value is not None}
    if "basis" in given:
        # The auxiliary basis belongs to the orbital basis.
        own = {**own, "auxiliary_basis": None}
    labels: Any = config.get("labels", {})
    return {**overrides, "dft": {**own, **given}, "labels": labels}
