"""The reader against the truth of the corpus. The figures only go up."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.corpus

TOOLS = Path(__file__).parents[2] / "tools"


@pytest.fixture(scope="module")
def tool():
    sys.path.insert(0, str(TOOLS))
    yield importlib.import_module("corpus_truth")
    sys.path.remove(str(TOOLS))


@pytest.fixture(scope="module")
def reports(tool, corpus):
    return tool.run(corpus, materialised=True, largest=3_000_000)


def test_every_model_is_read(reports):
    assert [f"{r.file}: {r.error}" for r in reports if r.error] == []
    assert len(reports) >= 300


def test_nothing_that_is_not_learnable_is_changed(reports):
    changed = [
        f"{r.file}: {entry['name']}: {entry['reason']}" for r in reports for entry in r.changed
    ]
    assert changed == []


def test_verdicts_do_not_depend_on_bytes(reports):
    assert [f"{r.file}: {name}" for r in reports for name in r.unequal] == []


def test_every_float_initializer_is_listed(reports):
    assert [f"{r.file}: {name}" for r in reports for name in r.unlisted] == []


def test_recall_and_roles(tool, reports):
    figures = tool.totals(reports)
    assert figures.recall >= 0.9997
    assert figures.tensor_recall >= 0.9978
    assert figures.roles >= 0.9999


def test_layouts_fill_the_stored_shape(tool, corpus):
    """The logical array of each learnable tensor becomes the stored one, element by element."""
    import numpy as np

    wrong = []
    for row in tool.read_table(corpus / "index.tsv"):
        parameters, _ = tool.read(tool.load(corpus / "models" / row["file"]))
        for parameter in parameters:
            size = int(np.prod(parameter.shape, dtype=np.int64))
            if not parameter.learnable or size > 1_000_000:
                continue
            logical = np.arange(size, dtype=np.int32).reshape(parameter.logical_shape)
            physical = parameter.layout.to_physical(logical)
            back = parameter.layout.to_logical(physical)
            if physical.shape != parameter.shape or not np.array_equal(back, logical):
                wrong.append(f"{row['file']}: {parameter.name}")
    assert wrong == []


def test_roles_that_were_checked_by_hand(tool, corpus):
    wrong = []
    for line in tool.read_table(TOOLS / "corpus_roles_checked.tsv"):
        parameters, _ = tool.read(tool.load(corpus / "models" / line["file"]))
        role = next(str(p.role) for p in parameters if p.name == line["name"])
        if role != line["role"]:
            wrong.append(f"{line['file']}: {line['name']}: {role}, not {line['role']}")
    assert wrong == []
