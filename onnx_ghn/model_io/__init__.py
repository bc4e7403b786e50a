"""Model files in and out: checked on the way in, complete or absent on the way out."""

from onnx_ghn.model_io.loading import load
from onnx_ghn.model_io.provenance import (
    clear_provenance,
    record_provenance,
)
from onnx_ghn.model_io.saving import save
from onnx_ghn.model_io.target import check_output, default_output
from onnx_ghn.model_io.tensors import has_value

__all__ = [
    "check_output",
    "clear_provenance",
    "default_output",
    "has_value",
    "load",
    "record_provenance",
    "save",
]
