"""ONNX model to graph of canonical GHN nodes: learnable tensors, their roles, nodes and edges."""
