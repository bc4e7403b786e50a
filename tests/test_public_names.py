import importlib
import subprocess
import sys

import pytest

import onnx_ghn
import onnx_ghn.passes

PUBLIC = [
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
PASSES = ["BatchStatistics", "Calibrate", "Initialize", "UnfoldBatchNormalization"]


def test_public_names_are_these():
    assert onnx_ghn.__all__ == PUBLIC
    assert onnx_ghn.passes.__all__ == PASSES
    for module, names in ((onnx_ghn, PUBLIC), (onnx_ghn.passes, PASSES)):
        for name in names:
            assert getattr(module, name).__doc__


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        importlib.import_module("onnx_ghn").nothing  # noqa: B018


@pytest.mark.parametrize("heavy", ["torch", "onnx", "numpy"])
def test_help_imports_nothing_heavy(heavy):
    code = (
        "import sys, onnx_ghn.cli as c\n"
        "try: c.cli.main(['--help'])\n"
        f"except SystemExit: sys.exit({heavy!r} in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
