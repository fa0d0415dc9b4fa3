"""What failed, by reason, with examples."""

import re
from collections import defaultdict
from dataclasses import dataclass
from itertools import islice

from qmgen.dataset import Dataset, Failure

_EXAMPLES = 3
_NUMBER = re.compile(r"\d+(\.\d+)?(e[-+]?\d+)?")
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")


@dataclass(frozen=True)
class FailureGroup:
    """Failures of a stage whose reasons differ in numbers and quoted texts at most."""

    stage: str
    reason: str
    count: int
    examples: tuple[Failure, ...]


def group_failures(dataset: Dataset, limit: int) -> list[FailureGroup]:
    """Group the first `limit` failures by stage and reason, the most frequent first."""
    counts: dict[tuple[str, str], int] = defaultdict(int)
    examples: dict[tuple[str, str], list[Failure]] = defaultdict(list)
    for failure in islice(dataset.failures(), limit):
        key = (failure.stage, _general(failure))
        counts[key] += 1
        if len(examples[key]) < _EXAMPLES:
            examples[key].append(failure)
    order = sorted(counts, key=lambda key: (-counts[key], key))
    return [FailureGroup(*key, counts[key], tuple(examples[key])) for key in order]


def _general(failure: Failure) -> str:
    """Reason without what is particular to one molecule."""
    reason = failure.reason.removeprefix(f"{failure.smile}: ")
    return _NUMBER.sub("…", _QUOTED.sub("…", reason))
