"""Graphs in files: tab-separated triples, N-Triples and Parquet."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyoxigraph as ox
from pyarrow import csv

from qmgen.dataset.output import written_beside
from qmgen.errors import InputError
from qmgen.knowledge.graph import (
    UNTYPED,
    KnowledgeGraph,
    Quantity,
    distinct_triples,
    graph_from_names,
)

NAMESPACE = "urn:qmgen:"
"""What the IRIs of a graph's entities, relations, types and quantities begin with."""

_TYPE = "http://www.w3.org/1999/02/22-rdf-syntax-ns#type"
_COMMENT = "http://www.w3.org/2000/01/rdf-schema#comment"
_XSD = "http://www.w3.org/2001/XMLSchema#"
_NUMBERS = {_XSD + name for name in ("double", "float", "decimal", "integer", "int", "long")}
_SUFFIXES = ".tsv, .nt or .parquet"
_METADATA = b"qmgen_graph"


def read_graph(path: str | Path) -> KnowledgeGraph:
    """Read a graph; the ending of the file's name says how it is written.

    ``.tsv`` has head, relation and tail on each line. ``.nt`` is N-Triples: IRIs and texts are
    entities, numbers are quantities; what `write_graph` wrote comes back with names and types.
    ``.parquet`` has the columns head, relation and tail, and what `write_graph` adds.

    Raises
    ------
    InputError
        The file is missing, of another kind, or damaged; the message names the line if there is
        one.
    """
    path = Path(path)
    readers = {".tsv": _read_tsv, ".nt": _read_ntriples, ".parquet": _read_parquet}
    if path.suffix.lower() not in readers:
        raise InputError(f"{path}: a graph's file must end in {_SUFFIXES}")
    if not path.is_file():
        raise InputError(f"there is no file {path}; give one that ends in {_SUFFIXES}")
    return readers[path.suffix.lower()](path)


def write_graph(graph: KnowledgeGraph, path: str | Path) -> None:
    """Write a graph to a new file, ``.tsv`` (edges only), ``.nt`` or ``.parquet`` (everything).

    Raises
    ------
    InputError
        The name has another ending, or a name of the graph has a tab or line break, which .tsv
        can't hold.
    StoreError
        The file exists or can't be written.
    """
    path = Path(path)
    writers = {".tsv": _write_tsv, ".nt": _write_ntriples, ".parquet": _write_parquet}
    if path.suffix.lower() not in writers:
        raise InputError(f"{path}: a graph's file must end in {_SUFFIXES}")
    with written_beside(path) as temporary:
        writers[path.suffix.lower()](graph, temporary)


def iri(kind: str, name: str) -> str:
    """Give the IRI of a name: ``urn:qmgen:``, then entity, relation, type or quantity, then it."""
    return f"{NAMESPACE}{kind}:{quote(name, safe='')}"


def _read_tsv(path: Path) -> KnowledgeGraph:
    bad: list[tuple[int, int]] = []

    def refuse(row: csv.InvalidRow) -> str:
        bad.append((row.number, row.actual_columns))
        return "skip"

    names = ["head", "relation", "tail"]
    try:
        found = csv.read_csv(
            path,
            # Only one thread counts lines.
            csv.ReadOptions(column_names=names, use_threads=False),
            csv.ParseOptions(
                delimiter="\t",
                quote_char=False,
                ignore_empty_lines=False,
                invalid_row_handler=refuse,
            ),
            csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
        )
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise InputError(f"{path}: {error}; write UTF-8, one triple a line") from error
    if bad:
        line, columns = bad[0]
        raise InputError(
            f"{path}, line {line}: {columns} columns; each line must have head, relation and tail, "
            "with a tab between them"
        )
    for name in names:
        empty = np.flatnonzero(found[name].to_numpy() == "")
        if empty.size:
            raise InputError(
                f"{path}, line {empty[0] + 1}: the {name} is empty; write three names with a tab "
                "between them"
            )
    return _from_columns(found["head"], found["relation"], found["tail"])


def _from_columns(
    heads: pa.ChunkedArray, relations: pa.ChunkedArray, tails: pa.ChunkedArray
) -> KnowledgeGraph:
    ends = pa.chunked_array([*heads.chunks, *tails.chunks], pa.string())
    encoded = ends.combine_chunks().dictionary_encode()
    relation = relations.combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy().astype(np.int64)
    heads_and_tails = codes[: len(heads)], codes[len(heads) :]
    triples = np.stack([heads_and_tails[0], relation.indices.to_numpy(), heads_and_tails[1]], 1)
    entities = tuple(encoded.dictionary.to_pylist())
    return KnowledgeGraph(
        entities,
        tuple(relation.dictionary.to_pylist()),
        distinct_triples(triples.astype(np.int64)),
        (UNTYPED,),
        np.zeros(len(entities), dtype=np.int64),
    )


def _write_tsv(graph: KnowledgeGraph, path: Path) -> None:
    for name in (*graph.entities, *graph.relations):
        if not name or set(name) & set("\t\n\r"):
            raise InputError(f"{name!r} can't stand in a .tsv file; write .nt or .parquet instead")
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for head, relation, tail in graph.triples.tolist():
            names = graph.entities[head], graph.relations[relation], graph.entities[tail]
            file.write("\t".join(names) + "\n")


def _read_parquet(path: Path) -> KnowledgeGraph:
    try:
        found = pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is no Parquet file: {error}") from error
    missing = {"head", "relation", "tail"} - set(found.column_names)
    if missing:
        raise InputError(
            f"{path} has no column {', '.join(sorted(missing))}; name the columns head, relation "
            "and tail"
        )
    about = (found.schema.metadata or {}).get(_METADATA)
    if about is None:
        columns = [found[name].cast(pa.string()) for name in ("head", "relation", "tail")]
        if any(column.null_count for column in columns):
            raise InputError(f"{path}: a head, relation or tail is missing; leave such rows out")
        return _from_columns(*columns)
    return _own_parquet(found, json.loads(about))


def _own_parquet(found: pa.Table, about: dict) -> KnowledgeGraph:
    rows = found.to_pydict()
    entities = [name for name, r in zip(rows["head"], rows["relation"], strict=True) if r is None]
    number = {name: i for i, name in enumerate(entities)}
    relation = {name: i for i, name in enumerate(about["relations"])}
    types = {name: i for i, name in enumerate(about["types"])}
    values = {name: np.full(len(entities), np.nan) for name, _ in about["quantities"]}
    triples = []
    type_of = np.zeros(len(entities), dtype=np.int64)
    columns = (rows[name] for name in ("head", "relation", "tail", "type", "value"))
    for head, name, tail, kind, value in zip(*columns, strict=True):
        if name is None:
            type_of[number[head]] = types[kind]
        elif tail is None:
            values[name][number[head]] = value
        else:
            triples.append((number[head], relation[name], number[tail]))
    return KnowledgeGraph(
        tuple(entities),
        tuple(relation),
        np.array(triples, dtype=np.int64).reshape(-1, 3),
        tuple(types),
        type_of,
        tuple(Quantity(name, text, values[name]) for name, text in about["quantities"]),
        tuple(about["notes"]),
    )


def _write_parquet(graph: KnowledgeGraph, path: Path) -> None:
    """One row an entity with its type, one an edge, one a value of a quantity."""
    entities = np.array(graph.entities, dtype=object)
    given = [np.flatnonzero(np.isfinite(q.values)) for q in graph.quantities]
    nvalue, nedge = sum(len(g) for g in given), len(graph.triples)
    absent = np.full(nvalue, None, dtype=object)
    none = np.full(len(entities), None, dtype=object)
    blank = np.full(nedge + nvalue, None, dtype=object)
    relations = np.array(graph.relations, dtype=object)
    types = np.array(graph.types, dtype=object)
    numbers = [q.values[g] for q, g in zip(graph.quantities, given, strict=True)]
    valued = [np.full(len(g), q.name) for q, g in zip(graph.quantities, given, strict=True)]
    heads = [entities, entities[graph.triples[:, 0]], *(entities[g] for g in given)]
    columns = {
        "head": np.concatenate(heads),
        "relation": np.concatenate([none, relations[graph.triples[:, 1]], *valued]),
        "tail": np.concatenate([none, entities[graph.triples[:, 2]], absent]),
        "type": np.concatenate([types[graph.type_of], blank]),
        "value": np.concatenate([np.full(len(entities) + nedge, np.nan), *numbers]),
    }
    about = {
        "relations": graph.relations,
        "types": graph.types,
        "quantities": [(q.name, q.description) for q in graph.quantities],
        "notes": graph.notes,
    }
    kinds = {name: pa.float64() if name == "value" else pa.string() for name in columns}
    arrays = [pa.array(values, kinds[name], from_pandas=True) for name, values in columns.items()]
    schema = pa.schema(kinds.items(), metadata={_METADATA: json.dumps(about)})
    pq.write_table(pa.table(arrays, schema=schema), path, compression="zstd")


def _write_ntriples(graph: KnowledgeGraph, path: Path) -> None:
    entity = [ox.NamedNode(iri("entity", name)) for name in graph.entities]
    relation = [ox.NamedNode(iri("relation", name)) for name in graph.relations]
    kind = [ox.NamedNode(iri("type", name)) for name in graph.types]
    a, comment = ox.NamedNode(_TYPE), ox.NamedNode(_COMMENT)

    def statements() -> Iterator[ox.Triple]:
        about = ox.NamedNode(NAMESPACE + "graph")
        yield from (ox.Triple(about, comment, ox.Literal(note)) for note in graph.notes)
        for node, place in zip(entity, graph.type_of.tolist(), strict=True):
            yield ox.Triple(node, a, kind[place])
        for h, r, t in graph.triples.tolist():
            yield ox.Triple(entity[h], relation[r], entity[t])
        for quantity in graph.quantities:
            name = ox.NamedNode(iri("quantity", quantity.name))
            yield ox.Triple(name, comment, ox.Literal(quantity.description))
            for i in np.flatnonzero(np.isfinite(quantity.values)).tolist():
                yield ox.Triple(entity[i], name, ox.Literal(float(quantity.values[i])))

    ox.serialize(statements(), str(path), format=ox.RdfFormat.N_TRIPLES)


def _read_ntriples(path: Path) -> KnowledgeGraph:
    edges: list[tuple[str, str, str]] = []
    kinds: dict[str, str] = {}
    descriptions: dict[str, str] = {}
    values: dict[str, dict[str, float]] = {}
    notes = []
    try:
        for quad in ox.parse(path=str(path), format=ox.RdfFormat.N_TRIPLES):
            subject, predicate, value = quad.subject, quad.predicate.value, quad.object
            own = NAMESPACE + "type:"
            if predicate == _COMMENT and subject.value == NAMESPACE + "graph":
                notes.append(value.value)
            elif predicate == _COMMENT and subject.value.startswith(NAMESPACE + "quantity:"):
                descriptions[_name(subject)] = value.value
            elif predicate == _TYPE and str(value.value).startswith(own):
                kinds[_name(subject)] = _name(value)
            elif isinstance(value, ox.Literal) and value.datatype.value in _NUMBERS:
                _add_number(values.setdefault(_name(quad.predicate), {}), subject, value, path)
            else:
                edges.append((_name(subject), _name(quad.predicate), _name(value)))
    except SyntaxError as error:
        raise InputError(
            f"{path}, line {error.lineno}: {error.msg}; N-Triples have a subject, a predicate, an "
            "object and a full stop on each line"
        ) from error
    return graph_from_names(
        [head for head, _, _ in edges],
        [relation for _, relation, _ in edges],
        [tail for _, _, tail in edges],
        kinds,
        {name: (descriptions.get(name, ""), found) for name, found in values.items()},
        notes,
    )


def _add_number(found: dict[str, float], subject: object, value: ox.Literal, path: Path) -> None:
    name = _name(subject)
    if name in found and found[name] != float(value.value):
        raise InputError(
            f"{path}: {name} has two numbers of one kind, {found[name]} and {value.value}; leave "
            "one of them out"
        )
    found[name] = float(value.value)


def _name(node: object) -> str:
    """Own names as they were; other IRIs, blank nodes and texts as N-Triples write them."""
    if isinstance(node, ox.NamedNode):
        for kind in ("entity", "relation", "type", "quantity"):
            start = f"{NAMESPACE}{kind}:"
            if node.value.startswith(start):
                return unquote(node.value.removeprefix(start))
        return node.value
    return str(node)
