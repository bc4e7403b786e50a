"""The corpus report on a corpus of two models with a planted error of each kind."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import onnx
import onnx.parser
import pytest

TOOL = Path(__file__).parents[2] / "tools" / "corpus_report.py"

INDEX = "file\tfamily\texporter\nmodel.onnx\tmlp\tonnx.helper\n"

COLUMNS = (
    "scope\twhere\tname\tdtype\tshape\tnumel\tkind\tsource_name\tsource_shape\tstripped\tconsumers"
)

MATERIALIZE = "def materialize(model, seed=0, fill='normal', data_path=None):\n    return model\n"


@pytest.fixture
def tool():
    spec = importlib.util.spec_from_file_location("corpus_report", TOOL)
    module = importlib.util.module_from_spec(spec)
    sys.modules["corpus_report"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def corpus(tmp_path, monkeypatch):
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[2, 2] x) => (float[2, 2] y)
        <float[2, 2] w = {1, 2, 3, 4}, float[2] b = {1, 2}, float[2] d = {1, 2}>
        { m = MatMul (x, w) a = Add (m, b) y = Div (a, d) }"""
    )
    (tmp_path / "models").mkdir()
    (tmp_path / "truth").mkdir()
    onnx.save(model, tmp_path / "models" / "model.onnx")
    (tmp_path / "index.tsv").write_text(INDEX)
    (tmp_path / "materialize.py").write_text(MATERIALIZE)
    monkeypatch.setenv("ONNX_GHN_CORPUS", str(tmp_path))
    return tmp_path


def truth(folder, *rows):
    lines = [COLUMNS]
    for name, shape, size, kind, consumers in rows:
        lines.append(f"\tinit\t{name}\tFLOAT\t{shape}\t{size}\t{kind}\t\t\t0\t{consumers}")
    (folder / "truth" / "model.tsv").write_text("\n".join(lines) + "\n")


def test_agreement(tool, corpus, capsys):
    truth(
        corpus,
        ("w", "2x2", 4, "param", "MatMul:1"),
        ("b", "2", 2, "param", "Add:1"),
        ("d", "2", 2, "const", "Div:1"),
    )
    assert tool.main(["--materialised"]) == 0
    assert "100.00%" in capsys.readouterr().out


def test_changed_missed_and_wrong_role(tool, corpus, capsys):
    truth(
        corpus,
        ("w", "2x2", 4, "buffer", "MatMul:1"),  # would be changed
        ("b", "2", 2, "param", "Conv:1"),  # has another role
        ("d", "2", 2, "param", "Div:1"),  # is missed
    )
    assert tool.main(["--json", str(corpus / "new.json")]) == 1
    output = capsys.readouterr().out
    assert "CHANGED  w" in output
    assert "missed   d" in output
    assert "role     b" in output
    totals = json.loads((corpus / "new.json").read_text())["totals"]
    assert (totals["changed"], totals["missed"]) == (1, 1)
    assert totals["recall"] == pytest.approx(0.5)


def test_quantised_and_derived_are_reported_apart(tool, corpus):
    truth(corpus, ("w", "2x2", 4, "derived", "MatMul:1"), ("b", "2", 2, "param", "Add:1"))
    (report,) = tool.run(corpus)
    assert not report.changed and not report.missed
    assert [entry["name"] for entry in report.apart] == ["w"]


def test_compare(tool, corpus, capsys):
    truth(corpus, ("w", "2x2", 4, "param", "MatMul:1"))
    tool.main(["--json", str(corpus / "old.json")])
    truth(corpus, ("w", "2x2", 4, "const", "MatMul:1"))
    tool.main(["--json", str(corpus / "new.json")])
    capsys.readouterr()
    assert tool.main(["--compare", str(corpus / "old.json"), str(corpus / "new.json")]) == 1
    assert "worse   model.onnx  changed: w" in capsys.readouterr().out
    assert tool.main(["--compare", str(corpus / "new.json"), str(corpus / "old.json")]) == 0


def test_no_corpus(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ONNX_GHN_CORPUS", str(tmp_path / "absent"))
    assert tool.main([]) == 2
    assert "ONNX_GHN_CORPUS" in capsys.readouterr().err
