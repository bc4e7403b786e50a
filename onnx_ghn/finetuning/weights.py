"""The tensors that training moves: in the file's layout, tied ones as one, in torch."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from onnx_ghn.errors import ModelError, OptionError
from onnx_ghn.finetuning.holding import Layer, hold_all, normalisation_layers
from onnx_ghn.finetuning.options import FinetuneOptions
from onnx_ghn.read.parameter import Parameter
from onnx_ghn.read.reading import Reading, read_model
from onnx_ghn.run.tensors import TORCH_DTYPES, to_torch

HALVES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class Trained:
    """One tensor under training, with the initializers that hold it.

    Attributes:
        members: The parameters of its tie group, the first of which gives its layout.
        leaf: Its values; float32 where the file stores half precision.
    """

    members: tuple[Parameter, ...]
    leaf: Tensor

    @property
    def name(self) -> str:
        """Name of the first initializer."""
        return self.members[0].name

    def stored(self) -> Iterable[tuple[str, Tensor]]:
        """Each initializer's name and its tensor as the file holds it, differentiable."""
        first = self.members[0]
        for member in self.members:
            tensor = self.leaf
            if member is not first:
                tensor = member.layout.to_physical(first.layout.to_logical(tensor))
            yield member.name, tensor.to(TORCH_DTYPES[member.dtype])


class Weights:
    """What a training run moves in a model.

    Attributes:
        trained: The tensors that the optimiser moves.
        statistics: Running statistics that move with the data, by name.
        tracked: Names of the running means among them.
        frozen: Names of learnable tensors that stay.
        elements: Numbers under training.
        changes: What in the model was changed to hold them.
        warnings: What the user should know.
    """

    def __init__(
        self, model: ir.Model, options: FinetuneOptions, device: str | torch.device = "cpu"
    ) -> None:
        """Choose them and load their values.

        Args:
            model: A complete model. Changed in place where a node gives a tensor that moves.
            options: What is frozen.
            device: Where the tensors lie.

        Raises:
            ModelError: There is nothing to train, or a tensor has no value.
            OptionError: A pattern matches no tensor.
        """
        reading = read_model(model)
        parameters = {parameter.name: parameter for parameter in reading.parameters}
        layers, self.changes, left = normalisation_layers(model, parameters)
        chosen = _Choice(reading, layers, options)
        self.frozen = chosen.frozen
        moving = [layer for layer in layers if not chosen.is_frozen_layer(layer)]
        names = {member.name for group in chosen.groups for member in group}
        names |= {name for layer in moving for name in (layer.mean, layer.variance)}
        self._held, changes = hold_all(model, reading.parameters, names)
        self.changes += changes
        for name in names - self._held.keys():  # parted statistics: the reader hasn't seen them
            self._held[name] = model.graph.initializers[name]
        self.trained = tuple(
            Trained(group, self._leaf(group[0].name, device)) for group in chosen.groups
        )
        self.statistics = {
            name: _load(self._held[name], name).to(device)
            for layer in moving
            for name in (layer.mean, layer.variance)
        }
        self.tracked = frozenset(layer.mean for layer in moving)
        self.elements = sum(trained.leaf.numel() for trained in self.trained)
        self.warnings = list(reading.warnings)
        self.warnings += [
            f"BatchNormalization {label!r} keeps its running statistics: the file does not store "
            "them as tensors"
            for label in left
        ]

    def _leaf(self, name: str, device: str | torch.device) -> Tensor:
        tensor = _load(self._held[name], name).to(device)
        if tensor.dtype in HALVES:  # updates would be lost in rounding
            tensor = tensor.float()
        return tensor.requires_grad_()

    @property
    def leaves(self) -> list[Tensor]:
        """What the optimiser moves."""
        return [trained.leaf for trained in self.trained]

    def parameters(self) -> dict[str, Tensor]:
        """All that the interpreter is to be given, by name."""
        given = {name: tensor for trained in self.trained for name, tensor in trained.stored()}
        given |= self.statistics
        return given

    def copy(self) -> dict[str, Tensor]:
        """The values, in memory of the CPU."""
        with torch.no_grad():
            values = {trained.name: trained.leaf for trained in self.trained} | self.statistics
            return {name: tensor.detach().to("cpu", copy=True) for name, tensor in values.items()}

    @torch.no_grad()
    def load(self, values: Mapping[str, Tensor]) -> None:
        """Set the values, as `copy` gave them.

        Raises:
            ModelError: They are of another model.
        """
        own = {trained.name: trained.leaf for trained in self.trained} | self.statistics
        if own.keys() != values.keys() or any(
            own[name].shape != values[name].shape for name in own
        ):
            raise ModelError("the checkpoint is of another model, or of other frozen tensors")
        for name, tensor in own.items():
            tensor.copy_(values[name])

    def check_finite(self) -> None:
        """Check the statistics, which may be broken where the loss is not yet.

        Raises:
            ModelError: A running statistic is not finite; names it and the remedy.
        """
        for name, tensor in self.statistics.items():
            if not bool(torch.isfinite(tensor).all()):
                raise ModelError(
                    f"running statistic {name!r} is not finite: a variance needs more than one "
                    "element a channel, hence a larger --batch-size, or the layer frozen "
                    f"(--freeze {name!r})"
                )

    @torch.no_grad()
    def store(self) -> None:
        """Write the values into the model."""
        for name, tensor in self.parameters().items():
            value = self._held[name]
            before = value.const_value
            assert before is not None
            value.const_value = _to_ir(tensor, before, name)


class _Choice:
    """Which learnable tensors are trained."""

    def __init__(self, reading: Reading, layers: Sequence[Layer], options: FinetuneOptions) -> None:
        self._options = options
        learnable = [
            parameter
            for parameter in reading.parameters
            if parameter.learnable and parameter.dtype in TORCH_DTYPES
        ]
        names = [parameter.name for parameter in learnable]
        names += [name for layer in layers for name in (layer.mean, layer.variance)]
        for flag, patterns in (("--freeze", options.freeze), ("--only", options.only)):
            for pattern in patterns:
                if not fnmatch.filter(names, pattern):
                    raise OptionError(
                        f"{flag} {pattern!r} matches no learnable tensor; onnx-ghn inspect -v "
                        "shows their names"
                    )
        statistics = {name for layer in layers for name in (layer.mean, layer.variance)}
        ties: dict[tuple[str, tuple[int, ...]], list[Parameter]] = {}
        for parameter in learnable:
            if parameter.name not in statistics:
                ties.setdefault(parameter.value_key, []).append(parameter)
        frozen = [group for group in ties.values() if any(self.is_frozen(p.name) for p in group)]
        self.groups = [tuple(group) for group in ties.values() if group not in frozen]
        self.frozen = tuple(parameter.name for group in frozen for parameter in group)
        if not self.groups:
            if self.frozen:
                raise OptionError("nothing is left to train: every learnable tensor is frozen")
            raise ModelError(
                "nothing to train: the reader finds no learnable tensor; onnx-ghn inspect -v says "
                "why"
            )

    def is_frozen(self, name: str) -> bool:
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in self._options.freeze):
            return True
        only = self._options.only
        return bool(only) and not any(fnmatch.fnmatchcase(name, pattern) for pattern in only)

    def is_frozen_layer(self, layer: Layer) -> bool:
        return self.is_frozen(layer.mean) or self.is_frozen(layer.variance)


def _load(value: ir.Value, name: str) -> Tensor:
    tensor = value.const_value
    if tensor is None:
        raise ModelError(f"tensor {name!r} has no value")
    return to_torch(tensor, name)


def _to_ir(tensor: Tensor, before: ir.TensorProtocol, name: str) -> ir.Tensor:
    """A tensor for the file, of the element type that it had."""
    array = tensor.detach().cpu().contiguous()
    dtype = ir.DataType(before.dtype)
    if array.dtype is torch.bfloat16:
        numbers = array.view(torch.int16).numpy().view(dtype.numpy())
    else:
        numbers = array.numpy()
    return ir.Tensor(np.array(numbers), dtype=dtype, name=name, doc_string=before.doc_string)
