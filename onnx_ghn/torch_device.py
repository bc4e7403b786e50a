"""Whether torch finds the device that is asked for."""

from __future__ import annotations

import torch

from onnx_ghn.errors import OptionError


def check_device(device: str) -> None:
    """Raise unless torch can compute there.

    Args:
        device: "cpu", "cuda" or "cuda:N".

    Raises:
        OptionError: It is no such name, or torch finds no such device.
    """
    try:
        kind = torch.device(device)
    except RuntimeError as error:
        raise OptionError(f"unknown device {device!r}: cpu, cuda or cuda:N") from error
    if kind.type not in ("cpu", "cuda"):
        raise OptionError(f"unknown device {device!r}: cpu, cuda or cuda:N")
    if kind.type == "cuda" and (kind.index or 0) >= torch.cuda.device_count():
        raise OptionError(
            f"torch {torch.__version__} finds no device {device!r}: onnx-ghn doctor says what is "
            "installed; --device cpu computes on the CPU"
        )
