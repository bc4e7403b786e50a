"""onnx-ir passes: one file, one pass."""
