"""On which nodes of a cluster workers are to be, as nodes come and go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence


def placed(cpus: Mapping[str, float], at: Sequence[str]) -> list[str]:
    """Return the node of each worker: on each as many as its share of the CPUs, and as few moved as that allows.

    :param cpus: of each node that is there.
    :param at: where each worker is now: a node that is there, or any other word.
    """
    here = Counter(at)
    wanted: Counter[str] = Counter()
    for _ in at:  # each goes where it has the largest share of a CPU; of two such nodes, where one is already
        wanted[max(cpus, key=lambda node: (cpus[node] / (wanted[node] + 1), here[node] > wanted[node], node))] += 1
    stays = [False] * len(at)
    for number, node in enumerate(at):
        if wanted[node] > 0:
            wanted[node] -= 1
            stays[number] = True
    free = iter(sorted(wanted.elements()))
    return [node if stay else next(free) for node, stay in zip(at, stays, strict=True)]
