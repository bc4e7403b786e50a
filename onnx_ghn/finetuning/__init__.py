"""Fine-tuning: ONNX in, ONNX out, trained by gradient descent in torch."""
