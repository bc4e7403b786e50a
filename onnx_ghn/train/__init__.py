"""Training of the hypernetwork on architectures given as ONNX graphs."""
