"""Whole models from many exporters: the interpreter gives what ONNX Runtime gives."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from onnx_ghn.run.interpreter import Interpreter

CORPUS = Path(os.environ.get("ONNX_GHN_CORPUS", Path(__file__).parents[3] / "shared/corpus"))
SMALL, LARGE = 300_000, 130_000_000  # learnable parameters
TOLERANCE = 1e-4  # of the largest element of the reference
HALF_TOLERANCE = 1e-2

DIFFERENT = {
    "hand_randinit.onnx": "draws random numbers",
    "hf_bert__ts-eval-op17__v-dyn.onnx": "8-bit sums saturate in ONNX Runtime on some CPUs",
    "hf_gpt2__ts-eval-op17__v-dyn.onnx": "8-bit sums saturate in ONNX Runtime on some CPUs",
    "tv_mobilenet_v2__ts-eval-op13__v-qdq.onnx": "a rounded level more or less",
    "tv_mobilenet_v2__ts-eval-op13__v-qop.onnx": "needs integer convolutions",
    "skl_mlpclassifier_nozip__skl2onnx-op13.onnx": "needs operators of ai.onnx.ml",
    "skl_scaler_mlp__skl2onnx-op20.onnx": "has an output of a map type, which onnx-ir refuses",
    "timm_eca_nfnet_l0__ts-eval-op17.onnx": "grows to 1e26, beyond single precision",
}


def cases() -> list[object]:
    """One case for each file that ONNX Runtime can run, the large ones marked long."""
    index = CORPUS / "index.tsv"
    if not index.exists():
        return []
    found = []
    with index.open(newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            size = int(row["learnable_params"] or 0)
            if row["ort_run"] == "ok" and size <= LARGE and row["file"] not in DIFFERENT:
                marks = [pytest.mark.long] if size > SMALL else []
                found.append(pytest.param(row["file"], marks=marks, id=row["file"]))
    return found


def feeds(session: onnxruntime.InferenceSession) -> dict[str, np.ndarray]:
    """Seeded noise, small integers; dynamic axes are 2 (the first one) or 16."""
    generator = np.random.default_rng(0)
    arrays = {}
    for value in session.get_inputs():
        name = value.type.removeprefix("tensor(").removesuffix(")").upper()
        kind = onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.DataType.Value(name))
        shape = [
            size if isinstance(size, int) else 16 if axis else 2
            for axis, size in enumerate(value.shape)
        ]
        if np.issubdtype(kind, np.floating):
            arrays[value.name] = (generator.standard_normal(shape) * 0.5).astype(kind)
        else:
            arrays[value.name] = generator.integers(0, 2, shape).astype(kind)
    return arrays


@pytest.mark.corpus
@pytest.mark.skipif(not CORPUS.exists(), reason="the corpus is absent")
@pytest.mark.parametrize("name", cases())
def test_equal_to_onnx_runtime(materialize, name):
    model = onnx.load(CORPUS / "models" / name, load_external_data=False)
    model = materialize(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    inputs = feeds(session)
    expected = session.run(None, inputs)
    # Channels last, as in training: on some CPUs oneDNN's other convolutions are off by 3e-4 of the
    # largest element of a deep network, against double precision; these by 2e-5.
    interpreter = Interpreter(ir.from_proto(model), channels_last=True)
    with torch.no_grad():
        got = interpreter({key: torch.from_numpy(array) for key, array in inputs.items()})
    half = any(t.data_type == onnx.TensorProto.FLOAT16 for t in model.graph.initializer)
    for tensor, array in zip(got, expected, strict=True):
        assert tuple(tensor.shape) == array.shape
        largest = np.abs(array).max(initial=1e-6)
        bound = (HALF_TOLERANCE if half else TOLERANCE) * largest
        np.testing.assert_allclose(tensor.numpy(), array, rtol=0, atol=bound)
