import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from onnx_ghn.read.distances import shortest_paths
from onnx_ghn.read.ordering import canonical_order


@st.composite
def shuffled_graphs(draw):
    """A labelled graph, and the same in another topological order."""
    count = draw(st.integers(1, 12))
    before = [
        sorted(draw(st.sets(st.integers(0, node - 1), max_size=2))) if node else []
        for node in range(count)
    ]
    labels = [(draw(st.integers(0, 1)),) for _ in range(count)]
    order, left = [], set(range(count))
    while left:
        ready = sorted(node for node in left if not left & set(before[node]))
        chosen = draw(st.sampled_from(ready))
        order.append(chosen)
        left.remove(chosen)
    place = {node: position for position, node in enumerate(order)}
    shuffled = [sorted(place[p] for p in before[node]) for node in order]
    return (labels, before), ([labels[node] for node in order], shuffled)


def arranged(labels, before):
    order = canonical_order(labels, before)
    place = {node: position for position, node in enumerate(order)}
    moved = [sorted(place[p] for p in before[node]) for node in order]
    assert all(p < position for position, sources in enumerate(moved) for p in sources)
    return [labels[node] for node in order], shortest_paths(moved)


@given(shuffled_graphs())
@settings(max_examples=300)
def test_the_order_in_which_nodes_come_does_not_matter(pair):
    (labels, distance), (other_labels, other_distance) = (arranged(*graph) for graph in pair)
    assert labels == other_labels
    np.testing.assert_array_equal(distance, other_distance)


def test_twin_branches_stay_together():
    # input, two stems, and a layer on each, which come crosswise
    labels = [(9,), (4,), (4,), (7,), (7,)]
    straight = arranged(labels, [[], [0], [0], [1], [2]])
    crossed = arranged(labels, [[], [0], [0], [2], [1]])
    np.testing.assert_array_equal(straight[1], crossed[1])


def test_pairs_of_twins_stay_together():
    # four stems, of which two layers take two each: neighbours, or every other one
    labels = [(0,)] * 6
    near = arranged(labels, [[], [], [], [], [0, 1], [2, 3]])
    far = arranged(labels, [[], [], [], [], [0, 2], [1, 3]])
    np.testing.assert_array_equal(near[1], far[1])


def test_twins_of_two_kinds_stay_together():
    labels = [(0,), (0,), (1,), (1,), (2,), (2,)]
    straight = arranged(labels, [[], [], [], [], [0, 2], [1, 3]])
    crossed = arranged(labels, [[], [], [], [], [0, 3], [1, 2]])
    np.testing.assert_array_equal(straight[1], crossed[1])
