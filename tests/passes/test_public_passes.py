"""What every public pass owes its users: an example that runs, a contract, a file of its own."""

import doctest
import importlib
import inspect
from pathlib import Path

import onnx_ir as ir
import pytest

import onnx_ghn.passes

FOLDER = Path(onnx_ghn.passes.__file__).parent
PASSES = [getattr(onnx_ghn.passes, name) for name in onnx_ghn.passes.__all__]


def test_every_file_is_one_public_pass():
    homes = {Path(inspect.getfile(cls)).resolve() for cls in PASSES}
    files = {path.resolve() for path in FOLDER.glob("*.py") if path.name != "__init__.py"}
    assert len(homes) == len(PASSES)
    assert homes == files
    assert onnx_ghn.passes.__all__ == sorted(onnx_ghn.passes.__all__)


@pytest.mark.parametrize("cls", PASSES, ids=lambda cls: cls.__name__)
def test_is_a_typed_pass_with_an_example_that_runs(cls):
    assert issubclass(cls, (ir.passes.InPlacePass, ir.passes.FunctionalPass))
    assert cls.__module__.startswith("onnx_ghn.passes.")
    for function in (cls.call, cls.__init__):
        signature = inspect.signature(function)
        for parameter in list(signature.parameters.values())[1:]:
            assert parameter.annotation is not inspect.Parameter.empty, parameter
    assert inspect.signature(cls.call).return_annotation == "ir.passes.PassResult"
    module = importlib.import_module(cls.__module__)
    result = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
    assert result.attempted > 0, "no example"
