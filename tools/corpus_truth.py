"""The reader's verdicts on one model of a corpus of ONNX skeletons, compared with the truth.

The corpus is `$ONNX_GHN_CORPUS` or ../shared/corpus beside the repository: `models/*.onnx`,
`truth/*.tsv`, `index.tsv`, `materialize.py`.
"""

from __future__ import annotations

import csv
import functools
import importlib.util
import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import onnx_ir as ir
from corpus_roles import allowed_roles

from onnx_ghn.options import InitializeOptions
from onnx_ghn.passes import Initialize
from onnx_ghn.read.dataflow import trace
from onnx_ghn.read.parameter import Parameter
from onnx_ghn.read.verdict import judge

LEARNABLE = frozenset(
    ["param", "param-slice", "param-gather", "param-concat", "param-mix", "param-scaled", "folded"]
)
"""Kinds of the truth that count as learnable."""
APART = frozenset({"quantized", "derived", "frozen"})
"""Kinds that are neither scored for recall nor errors when kept; changing one is reported."""


@dataclass
class ModelReport:
    """The comparison of one file."""

    file: str
    family: str
    exporter: str
    milliseconds: float = 0.0
    learnable: int = 0
    learnable_elements: int = 0
    found: int = 0
    found_elements: int = 0
    roles_scored: int = 0
    roles_right: int = 0
    changed: list[dict[str, Any]] = field(default_factory=list)
    missed: list[dict[str, Any]] = field(default_factory=list)
    wrong_roles: list[dict[str, Any]] = field(default_factory=list)
    apart: list[dict[str, Any]] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)
    unequal: list[str] = field(default_factory=list)
    error: str = ""

    @property
    def recall(self) -> float:
        """Share of the learnable elements that were found; 1 where there are none."""
        return self.found_elements / self.learnable_elements if self.learnable_elements else 1.0

    @property
    def tensor_recall(self) -> float:
        """Share of the learnable tensors that were found; 1 where there are none."""
        return self.found / self.learnable if self.learnable else 1.0


def corpus_folder() -> Path:
    """The corpus: `$ONNX_GHN_CORPUS`, else ../shared/corpus beside the repository."""
    default = Path(__file__).resolve().parents[2] / "shared" / "corpus"
    return Path(os.environ.get("ONNX_GHN_CORPUS", default))


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a tab-separated file with a header."""
    with path.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))


@functools.cache
def materializer(folder: Path) -> ModuleType:
    """The corpus's own script that fills a skeleton."""
    spec = importlib.util.spec_from_file_location("materialize", folder / "materialize.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load(path: Path) -> ir.Model:
    """A model as the product loads it, or without its outputs' types where onnx-ir has none."""
    try:
        return ir.load(path.resolve())
    except ir.serde.SerdeError:  # sequences of maps (ZipMap): types that onnx-ir has no name for
        return _without_maps(onnx.load(path, load_external_data=False))


def _without_maps(proto: onnx.ModelProto) -> ir.Model:
    for output in proto.graph.output:
        if output.type.WhichOneof("value") == "sequence_type":
            output.ClearField("type")
    kept = [v for v in proto.graph.value_info if v.type.WhichOneof("value") == "tensor_type"]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(kept)
    return ir.from_proto(proto)


def read(model: ir.Model) -> tuple[tuple[Parameter, ...], float]:
    """The parameters of a model, and the milliseconds that reading took."""
    start = time.perf_counter()
    parameters = judge(model, trace(model))
    return parameters, 1e3 * (time.perf_counter() - start)


def report_model(folder: Path, row: dict[str, str], materialised: bool) -> ModelReport:
    """Compare one model with its truth."""
    path = folder / "models" / row["file"]
    report = ModelReport(row["file"], row["family"], row["exporter"])
    try:
        parameters, report.milliseconds = read(load(path))
        if materialised:
            report.unequal = _unequal(folder, path, parameters)
    except Exception as error:
        report.error = f"{type(error).__name__}: {error}"
        parameters = ()
    known = {parameter.name: parameter for parameter in parameters}
    truth = read_table(folder / "truth" / f"{path.stem}.tsv")
    for line in truth:
        if line["where"] != "attr":
            _score(report, line, known.get(line["name"]))
    return report


def _score(report: ModelReport, line: dict[str, str], parameter: Parameter | None) -> None:
    size = int(line["numel"])
    learnable = line["kind"] in LEARNABLE
    entry = {
        "name": line["name"],
        "shape": line["shape"],
        "kind": line["kind"],
        "consumers": line["consumers"][:120],
        "role": str(parameter.role) if parameter else "",
        "reason": parameter.reason if parameter else "not listed",
    }
    changed = parameter is not None and parameter.learnable
    if parameter is None and line["where"] == "init" and line["dtype"] in _FLOAT_NAMES:
        report.unlisted.append(line["name"])
    if line["kind"] in APART:
        if changed:
            report.apart.append(entry)
        return
    if not learnable:
        if changed:
            report.changed.append(entry)
        return
    report.learnable += 1
    report.learnable_elements += size
    if not changed:
        report.missed.append(entry)
        return
    report.found += 1
    report.found_elements += size
    allowed = allowed_roles(line["consumers"])
    if allowed is not None:
        report.roles_scored += 1
        if entry["role"] in allowed:
            report.roles_right += 1
        else:
            report.wrong_roles.append(entry)


_FLOAT_NAMES = frozenset({"FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE"})


def _unequal(folder: Path, path: Path, parameters: Iterable[Parameter]) -> list[str]:
    """Names whose verdict changes once the skeleton has random bytes, or once `init` has set it."""
    proto = onnx.load(path, load_external_data=False)
    try:
        materializer(folder).materialize(proto)
    except ValueError:
        return []  # over 2 GB: the bytes would need a file of their own
    model = _without_maps(proto)
    mine = _verdicts(parameters)
    names = _differing(mine, _verdicts(read(model)[0]))
    Initialize(InitializeOptions(method="classical"))(model)
    after = _verdicts(read(model)[0])
    return sorted(names + [f"{name} (after init)" for name in _differing(mine, after)])


def _verdicts(parameters: Iterable[Parameter]) -> dict[str, tuple[Any, ...]]:
    return {p.name: (p.learnable, p.role, p.logical_shape, p.tie) for p in parameters}


def _differing(one: dict[str, tuple[Any, ...]], other: dict[str, tuple[Any, ...]]) -> list[str]:
    return [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]


@dataclass(frozen=True)
class Totals:
    """Figures over a set of models; recalls are averaged over files."""

    models: int
    recall: float
    tensor_recall: float
    roles: float
    changed: int
    missed: int
    unequal: int
    errors: int


def totals(reports: list[ModelReport]) -> Totals:
    """The figures of a set of models."""
    scored = [r for r in reports if r.learnable]
    count = max(1, len(scored))
    roles = sum(r.roles_scored for r in reports)
    return Totals(
        models=len(reports),
        recall=sum(r.recall for r in scored) / count,
        tensor_recall=sum(r.tensor_recall for r in scored) / count,
        roles=sum(r.roles_right for r in reports) / max(1, roles),
        changed=sum(len(r.changed) for r in reports),
        missed=sum(len(r.missed) for r in reports),
        unequal=sum(len(r.unequal) for r in reports),
        errors=sum(bool(r.error) for r in reports),
    )


def run(
    folder: Path, materialised: bool = False, only: str = "", largest: int = 1 << 62
) -> list[ModelReport]:
    """Reports of all models of the corpus whose file name contains `only`.

    Args:
        folder: The corpus.
        materialised: Whether to read each model once more, with random bytes.
        only: Part of the file names.
        largest: Learnable numbers above which a model is not materialised.
    """
    rows = [row for row in read_table(folder / "index.tsv") if only in row["file"]]
    return [
        report_model(folder, row, materialised and int(row.get("learnable_params") or 0) <= largest)
        for row in rows
    ]
