"""Initializers of one element."""

from __future__ import annotations

import numpy as np

NETWORK = """g (float[2, 8] in) => (y) <float[8, 8] w, float[8, 1] v, {declared}>
    {{ h = MatMul (in, w)  x = Relu (h)  {body} }}"""


def test_numbers_are_constants(verdicts):
    found = verdicts(
        NETWORK.format(
            declared="float c = {0.5}, float[1] d = {0.5}", body="a = Mul (x, c) y = Add (a, d)"
        )
    )
    assert not found["c"].learnable and not found["d"].learnable


def test_logit_scale(verdicts):
    found = verdicts(NETWORK.format(declared="float c = {0.5}", body="e = Exp (c) y = Mul (x, e)"))
    assert (found["c"].role, found["c"].learnable) == ("logit_scale", True)


def test_logit_scale_with_a_limit(verdicts):
    found = verdicts(
        NETWORK.format(
            declared="float c = {0.5}, float least, float most = {100.0}",
            body="e = Exp (c) l = Clip (e, least, most) y = Mul (x, l)",
        )
    )
    assert (found["c"].role, found["c"].learnable) == ("logit_scale", True)


def test_only_bias_of_a_single_output(verdicts):
    found = verdicts(
        NETWORK.format(declared="float[1, 1] b = {0.5}", body="m = MatMul (x, v) y = Add (m, b)")
    )
    assert (found["b"].role, found["b"].learnable) == ("bias", True)
    assert found["b"].layout.to_physical(np.zeros(1)).shape == (1, 1)


def test_learnable_affine_block(verdicts):
    found = verdicts(
        NETWORK.format(
            declared="float[1] s = {1.0}, float[1] b = {0.0}",
            body="m = Mul (s, x) a = Add (m, b) y = MatMul (a, w)",
        )
    )
    assert (found["s"].role, found["b"].role) == ("layer_scale", "bias")
    assert found["s"].learnable and found["b"].learnable


def test_marks_of_the_exporter(verdicts, parse):
    kind = "pkg.torch.export.graph_signature.InputSpec.kind"
    model = parse(
        NETWORK.format(
            declared="float c = {0.5}, float[8] p",
            body="a = Mul (x, c) b = Add (a, p) y = Relu (b)",
        )
    )
    assert verdicts(model)["p"].learnable
    model.graph.initializers["c"].metadata_props[kind] = "PARAMETER"
    model.graph.initializers["p"].metadata_props[kind] = "BUFFER"
    found = verdicts(model)
    assert found["c"].learnable
    assert not found["p"].learnable
    model.graph.initializers["p"].metadata_props.clear()
    folded = "pkg.onnxscript.optimizer.folded_from"
    model.graph.initializers["p"].metadata_props[folded] = "['exp', 'block.decay']"
    assert not verdicts(model)["p"].learnable
