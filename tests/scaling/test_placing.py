"""Workers are on nodes by their CPUs, and no more of them move than must."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from rlsd.scaling.placing import placed

NODES = st.dictionaries(st.sampled_from("abcde"), st.integers(1, 8).map(float), min_size=1)


@given(NODES, st.lists(st.sampled_from("abcdexyz"), min_size=1, max_size=20))
def test_no_node_has_a_worker_that_another_has_more_cpu_for(cpus, at):
    there = Counter(placed(cpus, at))
    assert set(there) <= set(cpus)
    assert sum(there.values()) == len(at)
    for full in there:
        assert all(cpus[node] / (there[node] + 1) <= cpus[full] / there[full] for node in cpus), there


@given(NODES, st.lists(st.just(""), min_size=1, max_size=20), st.sampled_from("abcde"), st.integers(1, 8))
def test_only_as_many_move_as_a_node_that_joins_gets(cpus, at, node, more):
    settled = placed(cpus, at)
    assert placed(cpus, settled) == settled
    grown = {**cpus, "new": float(more)}
    moved = placed(grown, settled)
    assert all(to == "new" for was, to in zip(settled, moved, strict=True) if was != to)
    left = {name: n for name, n in cpus.items() if name != node}
    if left:
        shrunk = placed(left, settled)
        assert all(to in left for to in shrunk)
