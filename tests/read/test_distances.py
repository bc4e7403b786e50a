from collections import deque

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnx_ghn.read.distances import CUTOFF, shortest_paths


@st.composite
def graphs(draw):
    count = draw(st.integers(1, 24))
    return [
        sorted(draw(st.sets(st.integers(0, node - 1), max_size=3))) if node else []
        for node in range(count)
    ]


def by_search(predecessors, cutoff):
    successors = [
        [j for j, p in enumerate(predecessors) if i in p] for i in range(len(predecessors))
    ]
    found = np.zeros((len(predecessors),) * 2, np.uint8)
    for start in range(len(predecessors)):
        steps, queue = {start: 0}, deque([start])
        while queue:
            node = queue.popleft()
            for following in successors[node]:
                if following not in steps:
                    steps[following] = steps[node] + 1
                    queue.append(following)
        for node, length in steps.items():
            found[start, node] = length if length <= cutoff else 0
    return found


@given(graphs(), st.integers(1, 6))
def test_lengths_are_those_of_a_search(predecessors, cutoff):
    np.testing.assert_array_equal(
        shortest_paths(predecessors, cutoff), by_search(predecessors, cutoff)
    )


def test_paths_longer_than_the_cutoff_do_not_count():
    chain = shortest_paths([[]] + [[node] for node in range(299)])
    assert chain[0, CUTOFF] == CUTOFF
    assert chain[0, CUTOFF + 1] == chain[0, 299] == 0
    assert chain.max() == CUTOFF
    assert not np.tril(chain).any()
