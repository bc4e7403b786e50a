"""Checks an installed wheel from outside the checkout: package data, passes and entry point.

python tools/check_wheel.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib import resources
from pathlib import Path

import onnx

import onnx_ghn
import onnx_ghn.passes.initialize


def main() -> int:
    """Initialise a model with what is installed; returns the exit code."""
    package = Path(onnx_ghn.__file__).parent
    assert "site-packages" in package.parts, f"not an installed package: {package}"
    assert not (package / "passes").is_symlink()
    assert (package / "py.typed").is_file()
    assert any(
        entry.name.endswith(".pt")
        for entry in (resources.files("onnx_ghn.hypernet") / "weights").iterdir()
    ), "no hypernetwork archive in the wheel"
    light = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "squeezenet.onnx"
        command = Path(sys.executable).parent / "onnx-ghn"
        subprocess.run(
            [command, "init", light / "light_squeezenet.onnx", "-o", output, "--method", "ghn"],
            check=True,
        )
        onnx.checker.check_model(output, full_check=True)
    print(f"wheel of onnx-ghn {onnx_ghn.__version__} works")
    return 0


if __name__ == "__main__":
    sys.exit(main())
