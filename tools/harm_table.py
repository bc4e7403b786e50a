"""Makes an archive's do-no-harm table of fine-tuning runs, and says what `auto` then does.

    python tools/harm_table.py finetune.jsonl --out harm.json
    python tools/bank.py --harm harm.json

A network is harmed where the mean accuracy of its predicted starts after `--steps` is below that
of the best classical start by more than a point and more than two standard errors, on any data
set. Each harmed network is put into a region, in which `auto` chooses the classical start: of the
regions that one or two node types or one bound on a size describe, the one that holds most harmed
networks that no other region holds, less the networks in it that were not harmed.

Then the checks, for `auto` with that table: no network harmed, no mean loss, and predicted for at
least 80 % of the generated and half of the library networks. The exit status is 1 where one fails.
Where `auto` is classical, its accuracy is that of the start named classical, which only those
networks need (`finetune_table.py --starts classical`).

These checks hold for the networks of which the table is made. For others, the last lines say what
`auto` does to each network with a table of the other networks alone, and for how many networks of
the generator's validation list it predicts.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from finetune_runs import runs_in
from networks import build

from onnx_ghn.architectures.splits import held_out
from onnx_ghn.hypernet.harm import HarmTable, Region
from onnx_ghn.measures import QUANTITIES, Measures, measure
from onnx_ghn.read.reading import read_model

PREDICTED, CLASSICAL = "predicted", "classical"
POINT = 0.01
REACH = 2.0
SHARES = {True: 0.8, False: 0.5}
"""Share that `auto` has to predict, of generated networks and of those of libraries."""


@dataclass(frozen=True)
class Tested:
    """A network's runs.

    Attributes:
        name: Its name.
        generated: Whether it is one of the generator's.
        measures: Its node types and sizes.
        accuracy: By data set and start, one for each seed.
    """

    name: str
    generated: bool
    measures: Measures
    accuracy: Mapping[str, Mapping[str, Sequence[float]]]

    def differences(self, start: str) -> Iterator[tuple[float, float]]:
        """For each data set, a start less the best classical one, and the loss that is allowed."""
        for starts in self.accuracy.values():
            best = max((s for s in starts if s != PREDICTED), key=lambda s: np.mean(starts[s]))
            errors = (np.var(starts[s], ddof=1) / len(starts[s]) for s in (start, best))
            difference = np.mean(starts[start]) - np.mean(starts[best])
            yield float(difference), max(POINT, 2 * float(sum(errors)) ** 0.5)

    def mean(self, start: str) -> float:
        """Mean difference over the data sets."""
        return float(np.mean([difference for difference, _ in self.differences(start)]))

    def has(self, start: str) -> bool:
        """Whether there are runs from it on every data set."""
        return all(start in starts for starts in self.accuracy.values())

    def harmed(self, start: str) -> bool:
        """Whether a start loses more than is allowed on any data set."""
        return any(difference < -allowed for difference, allowed in self.differences(start))


def main() -> None:
    """Write the table and print the checks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", type=Path, help="JSON lines of finetune_table.py")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    networks = read(arguments.runs, arguments.steps)
    if not networks:
        parser.error(f"{arguments.runs}: no network has runs from all starts with two seeds")
    table = make_table(networks, arguments.steps)
    arguments.out.write_text(json.dumps(table.to_json(), indent=2) + "\n")
    text, passed = checks(networks, table)
    print(text)
    if len(networks) > 1:
        print(left_out(networks, arguments.steps))
    print(coverage(table))
    sys.exit(0 if passed else 1)


def read(path: Path, steps: int) -> list[Tested]:
    """The networks of the file that have two seeds or more of each start."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in runs_in(path):
        if str(steps) in row["accuracy"]:
            rows[row["network"]].append(row)
    starts = {row["start"] for mine in rows.values() for row in mine}
    needed = starts - {CLASSICAL}  # which only networks need where `auto` doesn't predict
    networks = []
    for name, mine in rows.items():
        accuracy: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for row in mine:
            accuracy[row["data"]][row["start"]].append(row["accuracy"][str(steps)])
        whole = {
            data: found
            for data, found in accuracy.items()
            if needed <= found.keys() and all(len(seeds) > 1 for seeds in found.values())
        }
        if whole and PREDICTED in needed and len(needed) > 1:
            found = mine[0]["measures"]
            measures = Measures(**(found | {"types": frozenset(found["types"])}))
            networks.append(Tested(name, mine[0]["generated"], measures, whole))
    return networks


def make_table(networks: Sequence[Tested], steps: int) -> HarmTable:
    """The table of these networks."""
    regions: list[Region] = []
    while left := [n for n in networks if n.harmed(PREDICTED) and not _in_any(n, regions)]:
        regions.append(max(candidates(networks), key=lambda region: _worth(region, networks, left)))
    return HarmTable(
        measure=f"accuracy after {steps:,} steps, mean of the seeds, minus the best classical "
        "start's",
        networks=len(networks),
        difference=_mean([n.mean(PREDICTED) for n in networks]),
        types=frozenset().union(*(n.measures.types for n in networks)),
        ranges={
            name: (min(values), max(values))
            for name in QUANTITIES
            for values in [[getattr(n.measures, name) for n in networks]]
        },
        reach=REACH,
        worse=tuple(regions),
    )


def candidates(networks: Sequence[Tested]) -> Iterator[Region]:
    """Regions in which some network lies, simple ones first."""
    types = sorted(frozenset().union(*(n.measures.types for n in networks)))
    yes = [(f"networks with {t}", {"has": frozenset({t})}) for t in types]
    no = [(f"networks without {t}", {"lacks": frozenset({t})}) for t in types]
    pairs = list(itertools.combinations(types, 2))
    both = [(f"networks with {a} and {b}", {"has": frozenset({a, b})}) for a, b in pairs]
    none = [(f"networks without {a} and {b}", {"lacks": frozenset({a, b})}) for a, b in pairs]
    one = [
        (f"networks with {a}, without {b}", {"has": frozenset({a}), "lacks": frozenset({b})})
        for a, b in itertools.permutations(types, 2)
    ]
    sizes = [
        (f"{name} {words} {value:,}", {"ranges": {name: ends}})
        for name in QUANTITIES
        for value in sorted({getattr(n.measures, name) for n in networks} - {0})
        for words, ends in (("up to", (None, value)), ("from", (value, None)))
    ]
    # The network itself, where nothing else tells it from those that were not harmed.
    exact = [
        (
            f"networks like {n.name}",
            {
                "has": n.measures.types,
                "ranges": {
                    name: (value, value)
                    for name in QUANTITIES
                    if (value := getattr(n.measures, name))
                },
            },
        )
        for n in networks
    ]
    for name, conditions in (*yes, *no, *sizes, *both, *none, *one, *exact):
        empty = Region(name=name, networks=0, difference=0, **conditions)  # type: ignore[arg-type]
        inside = [n for n in networks if empty.holds(n.measures)]
        if inside:
            difference = _mean([n.mean(PREDICTED) for n in inside])
            yield Region(  # type: ignore[arg-type]
                name=name, networks=len(inside), difference=difference, **conditions
            )


def _worth(region: Region, networks: Sequence[Tested], left: Sequence[Tested]) -> tuple[bool, int]:
    """First of all a region has to hold a harmed network; then it should hold few others."""
    won = sum(region.holds(n.measures) for n in left)
    lost = sum(region.holds(n.measures) and not n.harmed(PREDICTED) for n in networks)
    return won > 0, won - lost


def checks(networks: Sequence[Tested], table: HarmTable) -> tuple[str, bool]:
    """What `auto` does to each network, and whether that passes."""
    lines = ["| network | auto | difference | allowed |", "| --- | --- | ---: | ---: |"]
    starts = {n.name: CLASSICAL if _in_any(n, table.worse) else PREDICTED for n in networks}
    everyone = networks
    untested = [n.name for n in networks if not n.has(starts[n.name])]
    networks = [n for n in networks if n.name not in untested]
    for network in networks:
        start = starts[network.name]
        for data, (difference, allowed) in zip(
            network.accuracy, network.differences(start), strict=True
        ):
            cells = f"{start} | {difference:+.3f} | -{allowed:.3f}"
            lines.append(f"| {network.name}, {data} | {cells} |")
    harmed = [n.name for n in networks if n.harmed(starts[n.name])]
    overall = _mean([n.mean(starts[n.name]) for n in networks])
    results = [
        (not harmed, "no network is harmed" + "".join(f"; harmed: {name}" for name in harmed)),
        (overall >= 0, f"mean difference {overall:+.4f}, at least 0"),
    ]
    if untested:
        words = "no runs from the classical start, where auto takes it: "
        results.append((False, words + ", ".join(untested)))
    for generated, least in SHARES.items():
        mine = [n for n in everyone if n.generated == generated]
        if mine:
            share = _mean([float(starts[n.name] == PREDICTED) for n in mine])
            words = f"predicted {share:.0%} of {'generated' if generated else 'library'} networks"
            results.append((share >= least, f"{words}, at least {least:.0%}"))
    lines += ["", *(f"{'pass' if good else 'FAIL'}: {words}" for good, words in results)]
    return "\n".join(lines), all(good for good, _ in results)


def left_out(networks: Sequence[Tested], steps: int) -> str:
    """What `auto` does to each network with a table of the others alone, in one line."""
    starts = {}
    for network in networks:
        table = make_table([n for n in networks if n is not network], steps)
        starts[network.name] = PREDICTED if _predicts(table, network.measures) else CLASSICAL
    predicted = sum(start == PREDICTED for start in starts.values())
    tested = [n for n in networks if n.has(starts[n.name])]
    harmed = [n.name for n in tested if n.harmed(starts[n.name])]
    words = f"each by a table of the others: predicted {predicted} of {len(networks)}"
    if tested:
        overall = _mean([n.mean(starts[n.name]) for n in tested])
        words += f", mean difference {overall:+.4f}, harmed: {', '.join(harmed) or 'none'}"
    return words


def coverage(table: HarmTable) -> str:
    """How many networks of the generator's val list `auto` predicts with a table, in one line."""
    entries = held_out("in-distribution", "val")
    found = [measure(read_model(build(entry))) for entry in entries]
    predicted = sum(m is not None and _predicts(table, m) for m in found)
    return f"of {len(entries)} others of the generator: predicted {predicted}"


def _predicts(table: HarmTable, network: Measures) -> bool:
    """Whether `auto` predicts by a table."""
    return not any(table.outside(network)) and not any(
        region.holds(network) for region in table.worse
    )


def _in_any(network: Tested, regions: Sequence[Region]) -> bool:
    return any(region.holds(network.measures) for region in regions)


def _mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4) if len(values) else float("nan")


if __name__ == "__main__":
    main()
