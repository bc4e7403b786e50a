"""The package config by which Olive finds our pass. Needs Olive installed, but never imports it.

Olive has no entry points for passes: `olive run --package-config FILE` reads one JSON file, in
place of the registry that Olive ships. So the file has to hold both.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

from onnx_ghn.errors import MissingDependencyError

PASS = "OnnxGhnInit"
ENTRY = {
    "module_path": f"onnx_ghn.integrations.olive.{PASS}",
    "supported_providers": ["*"],
    "supported_accelerators": ["*"],
    "supported_precisions": ["*"],
    "supported_algorithms": [],
    "supported_quantization_encodings": [],
    "extra_dependencies": ["onnx-ghn"],
}
"""Our line of the registry."""


def package_config(registry: Path | None = None) -> dict[str, Any]:
    """Olive's registry of passes and ours.

    Args:
        registry: The registry to add to; where None, the one of the Olive that is installed.

    Returns:
        What `olive run --package-config` takes, as JSON.

    Raises:
        MissingDependencyError: There is no Olive, or one without a registry.
    """
    registry = registry or _default_registry()
    try:
        config = json.loads(registry.read_text(encoding="utf-8"))
        passes, extra = config["passes"], config.setdefault("extra_dependencies", {})
        passes[PASS], extra["onnx-ghn"] = ENTRY, ["onnx-ghn"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MissingDependencyError(
            f"{registry} is no registry of Olive's ({error!r}): "
            "pip install --upgrade 'onnx-ghn[olive]'"
        ) from error
    return config


def _default_registry() -> Path:
    # Importing Olive takes seconds, and torch and transformers with it; the file lies in its root.
    specification = importlib.util.find_spec("olive")
    for folder in specification.submodule_search_locations or () if specification else ():
        path = Path(folder, "olive_config.json")
        if path.is_file():
            return path
    raise MissingDependencyError(
        "Olive is not installed in this environment: pip install 'onnx-ghn[olive]'"
    )
