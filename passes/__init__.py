"""onnx-ir passes: one file, one pass. They compose in `onnx_ir.passes.Sequential`."""

from onnx_ghn.passes.batch_statistics import BatchStatistics
from onnx_ghn.passes.calibrate import Calibrate
from onnx_ghn.passes.initialize import Initialize
from onnx_ghn.passes.unfold_batch_normalization import UnfoldBatchNormalization

__all__ = ["BatchStatistics", "Calibrate", "Initialize", "UnfoldBatchNormalization"]
