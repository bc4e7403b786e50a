"""Running models: ONNX Runtime sessions and the differentiable interpreter."""
