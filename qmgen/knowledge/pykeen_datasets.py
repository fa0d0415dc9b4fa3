"""Public knowledge graphs that PyKEEN has, as graphs of our own."""

from typing import Any

import numpy as np

from qmgen.errors import InputError, MissingExtraError
from qmgen.knowledge.graph import UNTYPED, KnowledgeGraph, distinct_triples
from qmgen.knowledge.triple_splits import TripleSplit


def pykeen_dataset(dataset: Any) -> TripleSplit:
    """Take a dataset of PyKEEN (Ali et al., JMLR 22, 82 (2021)) with its split.

    Parameters
    ----------
    dataset
        A `pykeen.datasets.Dataset`, or the name of one; `nations`, `kinships` and `umls` come with
        PyKEEN, others it downloads.

    Raises
    ------
    InputError
        PyKEEN has no dataset of this name, or this one has no validation set.
    MissingExtraError
        PyKEEN is not installed.
    """
    if isinstance(dataset, str):
        try:
            from pykeen.datasets import dataset_resolver, get_dataset
        except ImportError as error:
            raise MissingExtraError(
                "PyKEEN is not installed; install it with: pip install 'qmgen[pykeen]'"
            ) from error
        known = dataset_resolver.lookup_dict
        if dataset_resolver.normalize(dataset) not in known:
            some = ", ".join(sorted(known)[:5])
            raise InputError(f"PyKEEN has no dataset {dataset!r}; it has {some}, ...")
        dataset = get_dataset(dataset=dataset)
    if dataset.validation is None:
        raise InputError("this dataset of PyKEEN has no validation set; take one that has")
    parts = [
        part.mapped_triples.numpy().astype(np.int64)
        for part in (dataset.training, dataset.validation, dataset.testing)
    ]
    entities = tuple(dataset.training.entity_id_to_label[i] for i in range(dataset.num_entities))
    relations = tuple(
        dataset.training.relation_id_to_label[i] for i in range(dataset.num_relations)
    )
    graph = KnowledgeGraph(
        entities,
        relations,
        distinct_triples(np.concatenate(parts)),
        (UNTYPED,),
        np.zeros(len(entities), dtype=np.int64),
    )
    return TripleSplit(graph, *parts)
