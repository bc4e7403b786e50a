"""What the reader says of each tensor of a corpus of ONNX skeletons, against the truth.

    python tools/corpus_report.py                      # a summary and every disagreement
    python tools/corpus_report.py --json new.json      # the same as data
    python tools/corpus_report.py --compare old.json new.json
    python tools/corpus_report.py --materialised       # also with random bytes: equal verdicts

The corpus is `$ONNX_GHN_CORPUS` or ../shared/corpus beside the repository: `models/*.onnx`,
`truth/*.tsv`, `index.tsv`, `materialize.py`. Exit 1 if a tensor that is not learnable would be
changed, or if a verdict depends on whether bytes are present.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from onnx_ghn.read.dataflow import trace
from onnx_ghn.read.parameter import Parameter
from onnx_ghn.read.verdict import judge

LEARNABLE = frozenset(
    ["param", "param-slice", "param-gather", "param-concat", "param-mix", "param-scaled", "folded"]
)
"""Kinds of the truth that count as learnable."""
APART = frozenset({"quantized", "derived", "frozen"})
"""Kinds that are neither scored for recall nor errors when kept; changing one is reported."""

ROLES: dict[str, set[str]] = {
    "Conv:1": {"conv"},
    "FusedConv:1": {"conv"},
    "ConvTranspose:1": {"conv_transpose"},
    "Conv:2": {"bias"},
    "FusedConv:2": {"bias"},
    "ConvTranspose:2": {"bias"},
    "Gemm:1": {"linear"},
    "FusedGemm:1": {"linear"},
    "MatMul:1": {"linear"},
    "MatMul:0": {"linear", "position"},
    "Einsum:0": {"linear"},
    "Einsum:1": {"linear"},
    "Attention:1": {"linear"},
    "Attention:2": {"bias"},
    "Gemm:2": {"bias"},
    "FusedGemm:2": {"bias"},
    "BiasGelu:1": {"bias"},
    "FastGelu:1": {"bias"},
    "BatchNormalization:1": {"norm_scale"},
    "BatchNormalization:2": {"norm_shift"},
    "BatchNormalization:0": {"conv"},
    "LayerNormalization:1": {"norm_scale"},
    "LayerNormalization:2": {"norm_shift"},
    "GroupNormalization:1": {"norm_scale"},
    "GroupNormalization:2": {"norm_shift"},
    "InstanceNormalization:1": {"norm_scale"},
    "InstanceNormalization:2": {"norm_shift"},
    "RMSNormalization:1": {"norm_scale"},
    "SkipLayerNormalization:1": {"position"},
    "SkipLayerNormalization:2": {"norm_scale"},
    "SkipLayerNormalization:3": {"norm_shift"},
    "SkipLayerNormalization:4": {"bias"},
    "EmbedLayerNormalization:2": {"embedding"},
    "EmbedLayerNormalization:3": {"position"},
    "EmbedLayerNormalization:5": {"norm_scale"},
    "EmbedLayerNormalization:6": {"norm_shift"},
    "LSTM:1": {"recurrent_input"},
    "LSTM:2": {"recurrent_hidden"},
    "LSTM:3": {"recurrent_bias"},
    "GRU:1": {"recurrent_input"},
    "GRU:2": {"recurrent_hidden"},
    "GRU:3": {"recurrent_bias"},
    "RNN:1": {"recurrent_input"},
    "RNN:2": {"recurrent_hidden"},
    "RNN:3": {"recurrent_bias"},
    "PRelu:1": {"prelu_slope"},
    "Gather:0": {"embedding", "position", "relative_position", "token"},
    "GatherND:0": {"relative_position"},
    "Add:0": {"bias", "norm_shift", "position", "relative_position", "token"},
    "Add:1": {"bias", "norm_shift", "position", "relative_position", "token"},
    "Sub:0": {"norm_shift", "conv"},
    "ReduceMean:0": {"conv", "token"},
    "Mul:0": {"norm_scale", "layer_scale", "logit_scale", "conv", "linear"},
    "Mul:1": {"norm_scale", "layer_scale", "logit_scale", "conv", "linear"},
    "ReduceL2:0": {"conv", "linear"},
    "Exp:0": {"logit_scale", "other"},
    "Clip:0": {"logit_scale"},
    "Sigmoid:0": {"other"},
    "Div:0": {"norm_scale", "conv"},
}
"""First final consumer in the truth -> roles that are right. A consumer that stands in several
places of the field (Add, Mul, Gather) allows each; what is not listed is not scored."""


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


def load(path: Path) -> ir.Model:
    """A model as the product loads it, or without its outputs' types where onnx-ir has none."""
    try:
        return ir.load(path.resolve())
    except ir.serde.SerdeError:  # sequences of maps (ZipMap): types that onnx-ir has no name for
        proto = onnx.load(path, load_external_data=False)
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
    allowed = ROLES.get(line["consumers"].split(";")[0].split("<")[0].split("*")[0])
    if allowed is not None:
        report.roles_scored += 1
        if entry["role"] in allowed:
            report.roles_right += 1
        else:
            report.wrong_roles.append(entry)


_FLOAT_NAMES = frozenset({"FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE"})


def _unequal(folder: Path, path: Path, parameters: Iterable[Parameter]) -> list[str]:
    """Names whose verdict changes when the skeleton gets random bytes."""
    proto = onnx.load(path, load_external_data=False)
    try:
        _materializer(folder).materialize(proto)
    except ValueError:
        return []  # over 2 GB: the bytes would need a file of their own
    for output in proto.graph.output:
        if output.type.WhichOneof("value") == "sequence_type":
            output.ClearField("type")
    kept = [v for v in proto.graph.value_info if v.type.WhichOneof("value") == "tensor_type"]
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(kept)
    full, _ = read(ir.from_proto(proto))
    other = {p.name: (p.learnable, p.role, p.logical_shape, p.tie) for p in full}
    mine = {p.name: (p.learnable, p.role, p.logical_shape, p.tie) for p in parameters}
    return sorted(name for name in mine.keys() | other.keys() if mine.get(name) != other.get(name))


_MODULES: dict[Path, Any] = {}


def _materializer(folder: Path) -> Any:
    if folder not in _MODULES:
        spec = importlib.util.spec_from_file_location("materialize", folder / "materialize.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        _MODULES[folder] = module
    return _MODULES[folder]


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


def print_summary(reports: list[ModelReport], details: bool) -> None:
    """Print the tables to standard output."""
    header = (
        f"{'':34}{'models':>7}{'element':>9}{'tensor':>9}{'roles':>8}{'changed':>8}{'missed':>7}"
    )
    print(header)
    _print_row("all", reports)
    for title in ("family", "exporter"):
        groups: dict[str, list[ModelReport]] = defaultdict(list)
        for report in reports:
            groups[getattr(report, title)].append(report)
        print(f"\nby {title}")
        for name in sorted(groups):
            _print_row(name, groups[name])
    slowest = max(reports, key=lambda r: r.milliseconds)
    mean = sum(r.milliseconds for r in reports) / len(reports)
    print(
        f"\nreading: {mean:.1f} ms on average, "
        f"{slowest.milliseconds:.0f} ms at most ({slowest.file})"
    )
    if details:
        for report in reports:
            _print_details(report)


def _print_row(name: str, reports: list[ModelReport]) -> None:
    t = totals(reports)
    print(
        f"{name[:33]:34}{t.models:7}{t.recall:9.2%}{t.tensor_recall:9.2%}{t.roles:8.2%}"
        f"{t.changed:8}{t.missed:7}"
    )


def _print_details(report: ModelReport) -> None:
    lists = (
        ("CHANGED", report.changed),
        ("missed", report.missed),
        ("role", report.wrong_roles),
        ("apart, changed", report.apart),
    )
    if not (report.error or report.unequal or report.unlisted or any(e for _, e in lists)):
        return
    print(f"\n{report.file}  {report.recall:.2%} {report.tensor_recall:.2%}  {report.error}")
    for title, entries in lists:
        for e in entries:
            print(
                f"  {title:8} {e['name'][:60]} [{e['shape']}] {e['kind']} {e['consumers']}"
                f" -> {e['role']}: {e['reason']}"
            )
    for name in report.unequal:
        print(f"  UNEQUAL  {name}: verdict depends on the presence of bytes")
    for name in report.unlisted:
        print(f"  UNLISTED {name}")


def compare(old: Path, new: Path) -> int:
    """Print what changed between two JSON reports; 1 if a file got worse."""
    before = {r["file"]: r for r in json.loads(old.read_text())["models"]}
    after = {r["file"]: r for r in json.loads(new.read_text())["models"]}
    worse = 0
    for file in sorted(before.keys() & after.keys()):
        for key in ("changed", "missed", "wrong_roles", "unequal"):
            a = {str(e["name"] if isinstance(e, dict) else e) for e in before[file][key]}
            b = {str(e["name"] if isinstance(e, dict) else e) for e in after[file][key]}
            for name in sorted(b - a):
                print(f"worse   {file}  {key}: {name}")
                worse += 1
            for name in sorted(a - b):
                print(f"better  {file}  {key}: {name}")
    return int(worse > 0)


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--materialised", action="store_true", help="check with bytes, too")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the report as JSON")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("OLD", "NEW"))
    parser.add_argument("--only", default="", help="files whose name contains this")
    parser.add_argument("--summary", action="store_true", help="no list of disagreements")
    options = parser.parse_args(argv)
    if options.compare:
        return compare(*options.compare)
    folder = corpus_folder()
    if not (folder / "index.tsv").is_file():
        print(f"no corpus at {folder}: set ONNX_GHN_CORPUS", file=sys.stderr)
        return 2
    reports = run(folder, options.materialised, options.only)
    if not reports:
        print("no such model", file=sys.stderr)
        return 2
    print_summary(reports, details=not options.summary)
    if options.json:
        document = {
            "format": 1,
            "totals": asdict(totals(reports)),
            "models": [asdict(report) for report in reports],
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    return int(any(r.changed or r.unequal or r.error for r in reports))


if __name__ == "__main__":
    sys.exit(main())
