"""ONNX tensors and element types as torch ones."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import torch

from onnx_ghn.errors import ModelError

TORCH_DTYPES: dict[ir.DataType, torch.dtype] = {
    ir.DataType.FLOAT: torch.float32,
    ir.DataType.DOUBLE: torch.float64,
    ir.DataType.FLOAT16: torch.float16,
    ir.DataType.BFLOAT16: torch.bfloat16,
    ir.DataType.INT8: torch.int8,
    ir.DataType.INT16: torch.int16,
    ir.DataType.INT32: torch.int32,
    ir.DataType.INT64: torch.int64,
    ir.DataType.UINT8: torch.uint8,
    ir.DataType.UINT16: torch.uint16,
    ir.DataType.UINT32: torch.uint32,
    ir.DataType.UINT64: torch.uint64,
    ir.DataType.BOOL: torch.bool,
    ir.DataType.COMPLEX64: torch.complex64,
    ir.DataType.COMPLEX128: torch.complex128,
}


def torch_dtype(dtype: ir.DataType | int) -> torch.dtype:
    """The torch element type of an ONNX one.

    Raises:
        ModelError: Torch has no such type (strings, 4-bit and 8-bit floats).
    """
    found = TORCH_DTYPES.get(ir.DataType(dtype))
    if found is None:
        raise ModelError(f"element type {ir.DataType(dtype).name} has no counterpart in torch")
    return found


def to_torch(tensor: ir.TensorProtocol, name: str) -> torch.Tensor:
    """A copy of an ONNX tensor in CPU memory.

    Args:
        tensor: The tensor, whose bytes may lie in an external file.
        name: What messages call it.

    Raises:
        ModelError: The bytes are missing or the element type has no counterpart in torch.
    """
    dtype = TORCH_DTYPES.get(tensor.dtype)
    if dtype is None:
        raise ModelError(f"tensor {name!r}: {tensor.dtype.name} has no counterpart in torch")
    try:
        array = np.array(tensor.numpy())
    except (OSError, ValueError) as error:
        raise ModelError(f"tensor {name!r} has no readable bytes: {error}") from error
    if dtype is torch.bfloat16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
