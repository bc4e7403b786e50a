"""Operators of the differentiable interpreter, by opset range."""
