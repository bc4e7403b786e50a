"""Random network architectures as ONNX graphs."""
