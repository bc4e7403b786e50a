"""A compiled graph: a flat list of (function, input slots, output slot), and how it runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
import torch

from onnx_ghn.errors import ModelError, OnnxGhnError
from onnx_ghn.run.registry import Kernel, describe

Step = tuple[Kernel, tuple[int, ...], int, tuple[int, ...]]
"""Function, input slots, output slot, slots that nothing reads after this step."""


@dataclass(frozen=True)
class Program:
    """A graph, compiled for a set of given names.

    Attributes:
        template: Slots before the first step: constants in place, None elsewhere.
        steps: What to do, in order.
        given: Slots of the given parameters, in the order of their names.
        inputs: Slots of the graph inputs that the caller must provide, by name.
        outputs: Slots of the graph outputs.
        nodes: The node behind a step, by output slot, for messages.
    """

    template: list[Any]
    steps: list[Step]
    given: tuple[int, ...]
    inputs: dict[str, int]
    outputs: tuple[int, ...]
    nodes: dict[int, ir.Node]

    def run(self, slots: list[Any]) -> tuple[Any, ...]:
        """Execute the steps on a filled copy of the template.

        Raises:
            ModelError: A step failed; names the node.
        """
        fetch = slots.__getitem__
        out = 0
        try:
            for kernel, inputs, out, dead in self.steps:
                slots[out] = kernel(*map(fetch, inputs))
                for slot in dead:
                    slots[slot] = None
        except (OnnxGhnError, torch.OutOfMemoryError):
            raise
        except Exception as error:  # whatever torch raises, it is about this node
            node = self.nodes.get(out)
            where = "a conversion" if node is None else describe(node)
            raise ModelError(f"{where} failed: {error}") from error
        return tuple(map(fetch, self.outputs))

    def as_kernel(self) -> Kernel:
        """The program as a function of its inputs, by position."""
        places = tuple(self.inputs.values())

        def block(*arguments: Any) -> tuple[Any, ...]:
            slots = self.template.copy()
            for place, argument in zip(places, arguments, strict=True):
                slots[place] = argument
            return self.run(slots)

        return block


def with_lifetimes(
    plan: Sequence[tuple[Kernel, tuple[int, ...], int]], kept: Iterable[int]
) -> list[Step]:
    """Add to each step the slots that can be cleared after it."""
    computed = {slot for _, _, slot in plan}
    alive = set(kept)
    steps: list[Step] = []
    for kernel, inputs, output in reversed(plan):
        dead = []
        for slot in (output, *inputs):
            if slot in computed and slot not in alive:
                alive.add(slot)
                dead.append(slot)
        steps.append((kernel, inputs, output, tuple(dead)))
    steps.reverse()
    return steps
