"""Graph inputs: weights that were taken out of a file, and data."""

from __future__ import annotations

import pytest

CASES = [
    # a kernel; one of dynamic shape can't be set
    ("float[1, 3, 8, 8] x, float[4, 3, 3, 3] w", "", "y = Conv (x, w)", ["w"]),
    ("float[1, 3, 8, 8] x, float[N, 3, 3, 3] w", "", "y = Conv (x, w)", []),
    # an MLP without any stored weight: the second layer makes it certain
    (
        "float[2, 8] x, float[8, 4] a, float[4] b, float[4, 3] c",
        "",
        "h = MatMul (x, a) s = Add (h, b) r = Relu (s) y = MatMul (r, c)",
        ["a", "b", "c"],
    ),
    # a product of two inputs; keys and queries; an adjacency before stored weights
    ("float[2, 8] x, float[8, 4] a", "", "y = MatMul (x, a)", []),
    ("float[2, 4, 9, 8] q, float[2, 4, 8, 9] k", "", "s = MatMul (q, k) y = Softmax (s)", []),
    (
        "float[5, 5] adjacency, float[5, 8] x",
        "float[8, 4] w",
        "h = MatMul (adjacency, x) y = MatMul (h, w)",
        ["w"],
    ),
    # features of another network, compared with a stored network's
    (
        "float[2, 8] x, float[10, 4] t",
        "float[8, 4] w",
        "h = MatMul (x, w) p = Transpose <perm = [1, 0]> (t) y = MatMul (h, p)",
        ["w"],
    ),
]


@pytest.mark.parametrize(("inputs", "declared", "body", "learnable"), CASES)
def test_inputs(verdicts, inputs, declared, body, learnable):
    found = verdicts(f"g ({inputs}) => (y) {f'<{declared}>' if declared else ''} {{ {body} }}")
    assert sorted(name for name, p in found.items() if p.learnable) == learnable
    for name in learnable:
        assert found[name].has_value is (name in declared)
