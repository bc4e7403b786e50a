"""Models that run in parts give what they give as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from onnx_ghn.architectures.sample import sample
from onnx_ghn.options import InitializeOptions
from onnx_ghn.passes.batch_statistics import BatchStatistics
from onnx_ghn.passes.initialize import Initialize
from onnx_ghn.run import parts, session
from onnx_ghn.run.noise import run_on_noise
from onnx_ghn.run.session import open_session

RESIDUAL = """
    <ir_version: 10, opset_import: ["" : 21]>
    net (float[n, 2] x, float[n, 2] z) => (float[n, 2] y, float[n, 2] middle)
    <float[2, 2] a = {1, 2, 3, 4}, float[2, 2] b = {0, 1, 1, 0}, float[2, 2] c = {2, 0, 0, 1}>
    {
      two = Constant <value_float = 2.0> ()
      w = Sub (x, z)
      h = MatMul (w, a)
      s = Add (h, z)
      middle = Mul (s, two)
      k = MatMul (middle, b)
      t = Add (k, middle)
      u = MatMul (t, c)
      y = Mul (u, two)
    }
"""


@pytest.fixture(autouse=True)
def _cut_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part ends after any tensor, and every model goes to ONNX Runtime by files."""
    monkeypatch.setattr(parts, "PART_BYTES", 1)
    monkeypatch.setattr(session, "INLINE_LIMIT", 0)


def pieces(text: str) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    return [(part.inputs, part.outputs) for part in parts.split(ir.from_onnx_text(text))]


class TestSplit:
    def test_each_part_takes_what_earlier_ones_made(self):
        # "two" depends on no input: both parts that need it compute it.
        assert pieces(RESIDUAL) == [
            (("x", "z"), ("h",)),
            (("z", "h"), ("middle", "k")),
            (("middle", "k"), ("u",)),
            (("u",), ("y",)),
        ]

    def test_the_first_part_takes_all_inputs(self):
        late = RESIDUAL.replace("Sub (x, z)", "Relu (x)").replace("Mul (u, two)", "Mul (u, z)")
        late = late.replace("Add (h, z)", "Add (h, w)")
        assert pieces(late) == [(("x", "z"), ("middle", "y"))]

    def test_one_part_where_many_values_cross(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(parts, "MOST_CROSSING", 1)
        assert [given for _, given in pieces(RESIDUAL)] == [("h",), ("middle", "t"), ("u",), ("y",)]

    @pytest.mark.parametrize(
        "change",
        [
            ("Sub (x, z)", "Neg (x)"),  # an input that nothing uses
            ("float[2, 2] c", "bfloat16[2, 2] c"),
            ("y = Mul (u, two)", "q = SequenceConstruct (u)  y = ConcatFromSequence <axis=0> (q)"),
            ("float[n, 2] y,", "float[n, 2] y, float[2, 2] a,"),
        ],
    )
    def test_one_part_where_values_can_not_cross(self, change: tuple[str, str]):
        text = RESIDUAL.replace(*change)
        if "Neg" in text:
            text = text.replace("Add (h, z)", "Add (h, w)")
        assert len(pieces(text)) == 1


def outputs(model: ir.Model, *, few_runs: bool) -> list[dict[str, Any]]:
    opened = open_session(model, few_runs=few_runs)
    return [found for _, found in run_on_noise(opened, model, batch=4, samples=12)]


class TestRun:
    def test_gives_what_the_whole_gives(self):
        model = ir.from_onnx_text(RESIDUAL)
        whole, parted = (outputs(model, few_runs=few_runs) for few_runs in (False, True))
        assert len(whole) == len(parted) == 3
        for one, other in zip(whole, parted, strict=True):
            assert one.keys() == other.keys() == {"y", "middle"}
            np.testing.assert_array_equal(one["y"], other["y"])
            np.testing.assert_array_equal(one["middle"], other["middle"])

    def test_gives_the_outputs_that_are_asked_for(self):
        opened = open_session(ir.from_onnx_text(RESIDUAL), few_runs=True)
        assert opened.outputs == ("y", "middle")
        assert [item.name for item in opened.inputs] == ["x", "z"]
        x, z = np.eye(2, dtype=np.float32), np.ones((2, 2), np.float32)
        found = opened.run({"x": x, "z": z}, ["middle"])
        np.testing.assert_array_equal(found["middle"], 2 * ((x - z) @ [[1, 2], [3, 4]] + z))

    def test_opens_no_part_that_is_not_needed(self, monkeypatch: pytest.MonkeyPatch):
        paths: list[str] = []

        def load(*arguments: Any) -> Any:
            paths.append(Path(arguments[1]).stem)
            return loaded(*arguments)

        loaded = session._load
        monkeypatch.setattr(session, "_load", load)
        opened = open_session(ir.from_onnx_text(RESIDUAL), few_runs=True)
        x = np.ones((1, 2), np.float32)
        opened.run({"x": x, "z": x}, ["middle"])
        assert paths == ["0", "1"]
        opened.run({"x": x, "z": x})
        assert paths == ["0", "1", "0", "1", "2", "3"]

    @pytest.mark.parametrize("seed", range(6))
    def test_statistics_of_drawn_networks(self, seed: int):
        model = sample("full", seed, image_side=16)
        Initialize(InitializeOptions(method="classical"))(model)
        observed = BatchStatistics()(model).model
        assert len(parts.split(observed)) > 3
        whole, parted = (outputs(observed, few_runs=few_runs) for few_runs in (False, True))
        for one, other in zip(whole, parted, strict=True):
            assert one.keys() == other.keys()
            for name, array in one.items():
                np.testing.assert_allclose(other[name], array, rtol=1e-3, atol=1e-4)
