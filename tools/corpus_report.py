"""What the reader says of each tensor of a corpus of ONNX skeletons, against the truth.

    python tools/corpus_report.py                      # a summary and every disagreement
    python tools/corpus_report.py --json new.json      # the same as data
    python tools/corpus_report.py --compare old.json new.json
    python tools/corpus_report.py --materialised       # also with random bytes, and after `init`

The corpus is `$ONNX_GHN_CORPUS` or ../shared/corpus beside the repository. Exit 1 if a tensor that
is not learnable would be changed, or if a verdict, a role included, depends on whether bytes are
present.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from corpus_truth import ModelReport, corpus_folder, run, totals


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
