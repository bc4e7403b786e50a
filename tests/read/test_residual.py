"""Depth scales of residual branches."""

from __future__ import annotations

import pytest


def transformer(blocks, post):
    lines, stream, weights = [], "x", []
    for k in range(blocks):
        if post:
            lines.append(f"h{k} = MatMul ({stream}, a{k})  r{k} = Relu (h{k})")
            lines.append(f"o{k} = MatMul (r{k}, b{k})  t{k} = Add ({stream}, o{k})")
            lines.append(f"s{k} = LayerNormalization (t{k}, n{k})")
        else:
            lines.append(f"m{k} = LayerNormalization ({stream}, n{k})  h{k} = MatMul (m{k}, a{k})")
            lines.append(f"r{k} = Relu (h{k})  o{k} = MatMul (r{k}, b{k})")
            lines.append(f"s{k} = Add ({stream}, o{k})")
        weights.append(f"float[8, 32] a{k}, float[32, 8] b{k}, float[8] n{k}")
        stream = f"s{k}"
    body = "\n".join(lines) + f"\ny = Relu ({stream})"
    return f"g (float[2, 5, 8] x) => (y) <{', '.join(weights)}> {{ {body} }}"


@pytest.mark.parametrize(("blocks", "scale"), [(6, 6**-0.5), (2, 1.0)])
def test_pre_norm(verdicts, blocks, scale):
    found = verdicts(transformer(blocks, post=False))
    assert found["b0"].depth_scale == pytest.approx(scale)
    assert found["a0"].depth_scale == 1.0


def test_post_norm_keeps_its_scale(verdicts):
    assert verdicts(transformer(6, post=True))["b3"].depth_scale == 1.0
