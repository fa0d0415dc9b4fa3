"""Arrays of a store with given metadata: what `schema` lists, and what these metadata add."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from qmgen.dataset.metadata import Level, StoreMetadata
from qmgen.dataset.schema import SCHEMA_VERSION, Field, conformer_fields, label_at, store_groups

Groups = Mapping[str, Mapping[str, Field]]
"""A store's fields by group and name."""


def store_layout(metadata: StoreMetadata) -> Groups:
    """Every array of a store, by group.

    Raises
    ------
    InputError
        The metadata name a label that does not exist.
    """
    return layout(
        metadata.optional_labels, metadata.levels, metadata.precision, metadata.schema_version
    )


def layout(
    optional_labels: Sequence[str] = (),
    levels: Sequence[Level] = (),
    precision: Mapping[str, float] = MappingProxyType({}),
    version: int = SCHEMA_VERSION,
) -> Groups:
    """Every array of a store, by group; as `store_layout`, from what decides on them."""
    level_of = {label_at(label, level.name): level for level in levels for label in level.labels}
    groups = store_groups((*optional_labels, *level_of), version)

    def said(field: Field) -> Field:
        attributes: dict[str, Any] = {}
        if (level := level_of.get(field.name)) is not None:
            attributes["level"] = {"name": level.name, "config_hash": level.config_hash}
            attributes["level"] |= level.config
        bound = precision.get(field.name.partition("@")[0])
        if bound is not None:
            attributes["largest_rounding_error"] = bound
        return replace(field, bound=bound, attributes=attributes)

    conformers = {name: said(field) for name, field in groups["conformers"].items()}
    return MappingProxyType({**groups, "conformers": MappingProxyType(conformers)})


def label_fields(metadata: StoreMetadata) -> Mapping[str, Field]:
    """Labels of a store's conformers, those at other levels last."""
    labels = (*metadata.optional_labels, *labels_at_levels(metadata.levels))
    return conformer_fields(labels, metadata.schema_version)


def labels_at_levels(levels: Sequence[Level]) -> tuple[str, ...]:
    """Names of the arrays of labels at other levels."""
    return tuple(label_at(label, level.name) for level in levels for label in level.labels)
