"""The do-no-harm table of an archive: where its predictions were worse than a classical start.

It is made from fine-tuning experiments and stands in the archive's description as one JSON object:

    {
      "format": 1,
      "measure": "accuracy after 1,000 steps, mean of 3 seeds, minus the best classical start's",
      "networks": 16,
      "difference": 0.012,
      "tested": {
        "types": ["bias", "bn", "conv", "sum", ...],
        "parameters": [5000, 25600000], "depth": [6, 120], "width": [8, 2048], "side": [32, 32]
      },
      "reach": 2.0,
      "worse": [
        {"name": "no norm", "without": ["bn", "ln"], "networks": 4, "difference": -0.034},
        {"name": "large ViTs", "with": ["msa"], "parameters": [1000000, null], ...}
      ]
    }

`difference` is the mean of the measure over `networks` networks. `tested` holds the node types of
those, and the range of each quantity (`onnx_ghn.measures`). A node type that none of them had is
outside what was tested; so is a quantity that is more than `reach` times out of its range. A
network lies in a region of `worse` where it has all node types of `with` and none of `without`, and
each quantity that the region names is in its range, ends included; null is an open end. A quantity
of 0 is unknown: it is in no region and outside of nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from onnx_ghn.errors import ArchiveError
from onnx_ghn.measures import QUANTITIES, TYPES, Measures

FORMAT = 1

Range = tuple[int | None, int | None]
"""Lowest and highest, both inside; None is an open end."""


@dataclass(frozen=True, kw_only=True)
class Region:
    """Networks for which the prediction was worse.

    Attributes:
        name: In words.
        has: Node types that they have.
        lacks: Node types that they don't have.
        ranges: By quantity, the range it is in.
        networks: How many of them were tested.
        difference: Their mean difference from the best classical start; negative.
    """

    name: str
    networks: int
    difference: float
    has: frozenset[str] = frozenset()
    lacks: frozenset[str] = frozenset()
    ranges: Mapping[str, Range] = field(default_factory=dict)

    def holds(self, network: Measures) -> bool:
        """Whether a network lies in the region."""
        return (
            self.has <= network.types
            and not self.lacks & network.types
            and all(
                getattr(network, name) != 0
                and (low is None or low <= getattr(network, name))
                and (high is None or getattr(network, name) <= high)
                for name, (low, high) in self.ranges.items()
            )
        )

    def to_json(self) -> dict[str, Any]:
        """The region as in the archive's description."""
        return {
            "name": self.name,
            **({"with": sorted(self.has)} if self.has else {}),
            **({"without": sorted(self.lacks)} if self.lacks else {}),
            **{name: list(self.ranges[name]) for name in QUANTITIES if name in self.ranges},
            "networks": self.networks,
            "difference": self.difference,
        }


@dataclass(frozen=True, kw_only=True)
class HarmTable:
    """What fine-tuning experiments say of an archive.

    Attributes:
        measure: What was measured, in words.
        networks: How many networks were tested.
        difference: Mean difference over them.
        types: All their node types.
        ranges: By quantity, lowest and highest.
        reach: How many times a quantity may be out of its range.
        worse: Where the prediction was worse.
    """

    measure: str
    networks: int
    difference: float
    types: frozenset[str]
    ranges: Mapping[str, Range]
    reach: float
    worse: tuple[Region, ...] = ()

    def outside(self, network: Measures) -> Iterator[str]:
        """What of a network is far outside everything that was tested, in words."""
        for name in sorted(network.types - self.types):
            yield f"no tested network has {name}"
        for name, (low, high) in self.ranges.items():
            value = getattr(network, name)
            if value and high is not None and value > high * self.reach:
                yield f"{name} {value:,}, tested up to {high:,}"
            elif value and low is not None and value < low / self.reach:
                yield f"{name} {value:,}, tested from {low:,}"

    def to_json(self) -> dict[str, Any]:
        """The table as in the archive's description."""
        return {
            "format": FORMAT,
            "measure": self.measure,
            "networks": self.networks,
            "difference": self.difference,
            "tested": {
                "types": sorted(self.types),
                **{name: list(self.ranges[name]) for name in QUANTITIES},
            },
            "reach": self.reach,
            "worse": [region.to_json() for region in self.worse],
        }

    @classmethod
    def from_json(cls, data: Any, source: str) -> HarmTable:
        """Read a table.

        Args:
            data: The JSON object.
            source: Where it is from, for messages.

        Raises:
            ArchiveError: It is newer than this tool, or isn't a table.
        """
        reader = _Reader(source)
        table = reader.fields(
            data,
            "the table",
            ("format", "measure", "networks", "difference", "tested", "reach", "worse"),
        )
        if table["format"] != FORMAT:
            reader.fail(f"its format is {table['format']!r}, this tool knows {FORMAT}")
        tested = reader.fields(table["tested"], "tested", ("types", *QUANTITIES))
        reach = reader.number(table["reach"], "reach")
        if reach < 1:
            reader.fail(f"reach is {reach}, at least 1 is needed")
        if not isinstance(table["worse"], list):
            reader.fail("worse is no list")
        return cls(
            measure=reader.text(table["measure"], "measure"),
            networks=reader.count(table["networks"], "networks"),
            difference=reader.number(table["difference"], "difference"),
            types=reader.types(tested["types"], "tested types"),
            ranges={name: reader.range(tested[name], f"tested {name}") for name in QUANTITIES},
            reach=reach,
            worse=tuple(reader.region(region) for region in table["worse"]),
        )


class _Reader:
    """Checks the parts of a table; messages name the archive."""

    def __init__(self, source: str) -> None:
        self.source = source

    def fail(self, what: str) -> NoReturn:
        raise ArchiveError(f"{self.source}: the do-no-harm table can't be used: {what}")

    def fields(
        self, data: Any, what: str, needed: tuple[str, ...], optional: tuple[str, ...] = ()
    ) -> dict[str, Any]:
        if not isinstance(data, dict):
            self.fail(f"{what} is no JSON object")
        for name in needed:
            if name not in data:
                self.fail(f"{what} lacks {name!r}")
        for name in data:
            if name not in needed + optional:
                self.fail(f"{what} has an unknown field {name!r}")
        return data

    def text(self, value: Any, what: str) -> str:
        if not isinstance(value, str):
            self.fail(f"{what} is no text")
        return value

    def number(self, value: Any, what: str) -> float:
        if not _is_whole(value) and not (isinstance(value, float) and math.isfinite(value)):
            self.fail(f"{what} is no number")
        return float(value)

    def count(self, value: Any, what: str) -> int:
        if not _is_whole(value) or value < 1:
            self.fail(f"{what} is no count of at least 1")
        return value

    def types(self, value: Any, what: str) -> frozenset[str]:
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            self.fail(f"{what} is no list of node types")
        for name in value:
            if name not in TYPES:
                self.fail(f"{what} names {name!r}; node types are {', '.join(TYPES)}")
        return frozenset(value)

    def range(self, value: Any, what: str) -> Range:
        ends = value if isinstance(value, list) else []
        if len(ends) != 2 or not all(end is None or _is_whole(end) for end in ends):
            self.fail(f"{what} is no pair of a lowest and a highest whole number or null")
        low, high = ends
        if low is not None and high is not None and low > high:
            self.fail(f"{what} starts after it ends: {value}")
        return low, high

    def region(self, data: Any) -> Region:
        needed = ("name", "networks", "difference")
        region = self.fields(data, "a region", needed, ("with", "without", *QUANTITIES))
        name = self.text(region["name"], "a region's name")
        ranges = {
            quantity: self.range(region[quantity], f"{quantity} of {name!r}")
            for quantity in QUANTITIES
            if quantity in region
        }
        has = self.types(region.get("with", []), f"with of {name!r}")
        lacks = self.types(region.get("without", []), f"without of {name!r}")
        if not (has or lacks or ranges):
            self.fail(f"the region {name!r} has no condition: it would hold all networks")
        return Region(
            name=name,
            networks=self.count(region["networks"], f"networks of {name!r}"),
            difference=self.number(region["difference"], f"difference of {name!r}"),
            has=has,
            lacks=lacks,
            ranges=ranges,
        )


def _is_whole(value: Any) -> bool:
    """Whether a JSON value is a whole number; `True` is one to Python."""
    return isinstance(value, int) and not isinstance(value, bool)
