"""Logical shape to physical shape and back.

A weight is predicted, initialised and trained in its *logical* shape (out, in, *kernel), as a
torch module would hold it; the file holds it transposed, reshaped or packed. A `Layout` is the
list of reversible steps between the two. It works on numpy arrays and on torch tensors alike,
so that the pass, the interpreter and fine-tuning share one definition.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Reshape:
    """Give the array the shape `after`; `before` is the shape that it had."""

    before: tuple[int, ...]
    after: tuple[int, ...]


@dataclass(frozen=True)
class Transpose:
    """Permute the axes: `result.shape[k] == array.shape[permutation[k]]`."""

    permutation: tuple[int, ...]

    def inverse(self) -> Transpose:
        """The transpose that undoes this one."""
        inverse = [0] * len(self.permutation)
        for position, axis in enumerate(self.permutation):
            inverse[axis] = position
        return Transpose(tuple(inverse))


Step = Reshape | Transpose


@dataclass(frozen=True)
class Layout:
    """Steps that turn the logical array into the physical one, in order."""

    steps: tuple[Step, ...] = ()

    def to_physical(self, array: Any) -> Any:
        """Apply the steps to a numpy array or torch tensor of the logical shape."""
        for step in self.steps:
            array = _apply(step, array)
        return array

    def to_logical(self, array: Any) -> Any:
        """Undo the steps on a numpy array or torch tensor of the physical shape."""
        for step in reversed(self.steps):
            if isinstance(step, Reshape):
                array = array.reshape(step.before)
            else:
                array = _apply(step.inverse(), array)
        return array


def _apply(step: Step, array: Any) -> Any:
    if isinstance(step, Reshape):
        return array.reshape(step.after)
    if hasattr(array, "permute"):  # torch
        return array.permute(step.permutation)
    return array.transpose(step.permutation)
