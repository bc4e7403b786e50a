"""`OnnxGhnInit`: the Olive pass that initialises a model. Importing it needs Olive.

Olive finds a pass by its package config, see `onnx_ghn.integrations.olive_registry`.
"""

from __future__ import annotations

import dataclasses
import logging
import typing
from pathlib import Path
from typing import Any, Literal, Union

from olive.common.config_utils import ParamCategory
from olive.hardware.accelerator import AcceleratorSpec
from olive.model import ONNXModelHandler
from olive.model.utils import resolve_onnx_path
from olive.passes import Pass
from olive.passes.pass_config import BasePassConfig, PassConfigParam
from onnx_ir.passes.common import RemoveInitializersFromInputsPass

from onnx_ghn import model_io
from onnx_ghn.options import InitializeOptions
from onnx_ghn.passes.initialize import initialize_model
from onnx_ghn.report import Status

logger = logging.getLogger(__name__)

EXTERNAL = "save_as_external_data"
INPUTS = "keep_weights_as_inputs"


class OnnxGhnInit(Pass):
    """Set the learnable weights of an ONNX model, by a hypernetwork or classically.

    Its parameters are the fields of `InitializeOptions`, `save_as_external_data` and
    `keep_weights_as_inputs`. The result does not depend on the accelerator. Weights that lie in
    external data stay outside the file.
    """

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        hints = typing.get_type_hints(InitializeOptions)
        parameters = {
            field.name: _parameter(field, hints[field.name])
            for field in dataclasses.fields(InitializeOptions)
        }
        parameters[EXTERNAL] = PassConfigParam(
            type_=bool,
            default_value=False,
            description="Write the weights to a data file beside the model, whatever their size. "
            "Otherwise they go there where the input's do, or above the 2 GB of a protobuf file.",
        )
        parameters[INPUTS] = PassConfigParam(
            type_=bool,
            default_value=False,
            description="Keep weights that the file declares as inputs among the inputs. "
            "Otherwise they are none any more: runtimes fold and fuse constants, not inputs.",
        )
        return parameters

    def _run_for_config(
        self, model: ONNXModelHandler, config: type[BasePassConfig], output_model_path: str
    ) -> ONNXModelHandler:
        values: dict[str, Any] = config.model_dump()
        external = values.pop(EXTERNAL) or None
        keep_inputs = values.pop(INPUTS)
        options = options_from(values)
        output = Path(resolve_onnx_path(output_model_path, Path(model.model_path).name))
        loaded = model_io.load(model.model_path)
        report = initialize_model(loaded, options)
        if not keep_inputs:
            RemoveInitializersFromInputsPass()(loaded)
            loaded.ir_version = max(loaded.ir_version, 4)  # before, initializers had to be inputs
        counts = ", ".join(f"{report.count(status)} {status}" for status in Status)
        logger.info("%s: tensors %s", report.decision["method"], counts)
        for warning in report.warnings:
            logger.warning("%s", warning)
        model_io.save(loaded, output, force=True, external_data=external)
        if any(path != output for path in output.parent.glob(f"{output.name}*")):
            return ONNXModelHandler(model_path=str(output.parent), onnx_file_name=output.name)
        return ONNXModelHandler(model_path=str(output))


def options_from(values: dict[str, Any]) -> InitializeOptions:
    """The options from a pass configuration, in which lists stand for tuples.

    Raises:
        OptionError: A value makes no sense.
    """
    hints = typing.get_type_hints(InitializeOptions)
    given = {}
    for name, value in values.items():
        if typing.get_origin(hints[name]) is tuple:
            value = tuple(value)
        elif value is not None and Path in typing.get_args(hints[name]):
            value = Path(value)
        given[name] = value
    return InitializeOptions(**given)


def _parameter(field: dataclasses.Field[Any], hint: Any) -> PassConfigParam:
    """One option as Olive describes it: type, default, help."""
    metadata = field.metadata
    default: Any = field.default
    category = ParamCategory.NONE
    if "choices" in metadata:
        hint = Literal[tuple(metadata["choices"])]
    elif typing.get_origin(hint) is tuple:
        hint, default = list[typing.get_args(hint)[0]], list(default)  # type: ignore[misc]
    elif Path in typing.get_args(hint):
        hint, category = Union[Path, str], ParamCategory.PATH  # noqa: UP007 (Olive reads both)
    return PassConfigParam(
        type_=hint, default_value=default, category=category, description=metadata["help"]
    )
