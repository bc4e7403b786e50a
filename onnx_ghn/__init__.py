"""Initialise the weights of any ONNX model with a graph hypernetwork.

    >>> import onnx_ghn
    >>> model, report = onnx_ghn.initialize("model.onnx", "out.onnx")  # doctest: +SKIP

The passes for onnx-ir pipelines are in `onnx_ghn.passes`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from onnx_ghn.api import calibrate, evaluate, initialize, inspect, rank, strip
    from onnx_ghn.data import DataError
    from onnx_ghn.errors import (
        ArchiveError,
        MissingDependencyError,
        ModelError,
        OnnxGhnError,
        OptionError,
        OutputError,
        UnsupportedOperatorError,
    )
    from onnx_ghn.evaluation import Evaluation
    from onnx_ghn.finetuning.entry import finetune
    from onnx_ghn.finetuning.options import FinetuneOptions
    from onnx_ghn.finetuning.result import FinetuneResult
    from onnx_ghn.options import InitializeOptions, RunOptions
    from onnx_ghn.ranking.options import RankOptions
    from onnx_ghn.ranking.results import Ranking, Record
    from onnx_ghn.report import Outcome, Report, Status

__all__ = [
    "ArchiveError",
    "DataError",
    "Evaluation",
    "FinetuneOptions",
    "FinetuneResult",
    "InitializeOptions",
    "MissingDependencyError",
    "ModelError",
    "OnnxGhnError",
    "OptionError",
    "Outcome",
    "OutputError",
    "RankOptions",
    "Ranking",
    "Record",
    "Report",
    "RunOptions",
    "Status",
    "UnsupportedOperatorError",
    "calibrate",
    "evaluate",
    "finetune",
    "initialize",
    "inspect",
    "rank",
    "strip",
]

# Imported when first asked for: `onnx-ghn --help` must not wait for onnx.
_HOMES = {
    "calibrate": "api",
    "evaluate": "api",
    "finetune": "finetuning.entry",
    "initialize": "api",
    "inspect": "api",
    "rank": "api",
    "strip": "api",
    "DataError": "data",
    "Evaluation": "evaluation",
    "FinetuneOptions": "finetuning.options",
    "FinetuneResult": "finetuning.result",
    "InitializeOptions": "options",
    "RunOptions": "options",
    "RankOptions": "ranking.options",
    "Ranking": "ranking.results",
    "Record": "ranking.results",
    "Outcome": "report",
    "Report": "report",
    "Status": "report",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"onnx_ghn.{_HOMES.get(name, 'errors')}"), name)
