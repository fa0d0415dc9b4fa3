"""Two retrievers to compare others with: the truth, and shortest paths to the answers.

Shortest paths are what many retrievers are trained on for want of the truth (2511.04473).
"""

import numpy as np
from scipy.sparse.csgraph import dijkstra

from qmgen.knowledge.questions.subgraphs import Neighbours
from qmgen.knowledge.questions.synth_kgqa import Question
from qmgen.knowledge.sparql import Triple


def true_triples(question: Question) -> frozenset[Triple]:
    """The triples that prove the answers."""
    return frozenset(question.evidence)


def shortest_path_triples(
    neighbours: Neighbours, seeds: tuple[int, ...], answers: tuple[int, ...]
) -> frozenset[Triple]:
    """All triples on any shortest path from a seed to an answer, whatever their direction."""
    ends = np.unique([*seeds, *answers])
    row = {int(end): i for i, end in enumerate(ends)}
    distances = dijkstra(neighbours.matrix, indices=ends, unweighted=True)
    heads, tails = neighbours.edges[:, 0], neighbours.edges[:, 2]
    on_path = np.zeros(len(heads), bool)
    for seed in seeds:
        for answer in answers:
            from_seed, to_answer = distances[row[seed]], distances[row[answer]]
            length = from_seed[answer]
            if np.isfinite(length):
                on_path |= from_seed[heads] + 1 + to_answer[tails] == length
                on_path |= from_seed[tails] + 1 + to_answer[heads] == length
    found = neighbours.edges[on_path]
    return frozenset((int(h), int(r), int(t)) for h, r, t in found)
