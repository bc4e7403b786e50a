"""Modules that a dependency imports at its top but needs in rare cases only.

For the command line, whose process is ours alone; a library has no business with other people's
imports. onnx-ir computes with symbolic sizes through SymPy, which this tool never asks it to. SymPy
is a third of the time to start, and 33 MB: it is loaded when something of it is first used.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import LazyLoader
from types import ModuleType

DEFERRED = ("sympy", "onnx_ir._symbolic_shapes")


class DeferringFinder(MetaPathFinder):
    """Finds the modules in `DEFERRED` as usual, but runs them at the first look at an attribute."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder.find_spec`."""
        if fullname not in DEFERRED:
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec


def defer() -> None:
    """Defer what has not been imported yet."""
    if not any(isinstance(finder, DeferringFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, DeferringFinder())
