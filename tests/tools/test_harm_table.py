"""The do-no-harm table of planted fine-tuning runs."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest

from onnx_ghn.architectures.splits import held_out
from onnx_ghn.hypernet.harm import HarmTable, Region
from onnx_ghn.measures import QUANTITIES, TYPES


@pytest.fixture
def tool(load_tool):
    return load_tool("harm_table")


STARTS = ("predicted", "kaiming", "classical", "lsuv")


def write(path, gains, *, generated=True, starts=STARTS, archive="new"):
    """Lines of networks: by name, their node types and how much better the prediction is."""
    with path.open("a") as file:
        for name, (types, gain) in gains.items():
            sizes = {"parameters": 1000, "depth": 10, "width": 32, "side": 0}
            for start in starts:
                accuracy = {"predicted": 0.5 + gain, "lsuv": 0.4}.get(start, 0.5)
                for seed in range(3):
                    row = {"network": name, "data": "cifar10", "start": start, "seed": seed}
                    row |= {"probe": False, "generated": generated}
                    row |= {"archive": archive if start == "predicted" else ""}
                    row |= {"measures": sizes | {"types": types}}
                    row |= {"accuracy": {"1000": accuracy + 0.001 * seed}}
                    file.write(json.dumps(row) + "\n")


def run(tool, monkeypatch, folder):
    monkeypatch.setattr(
        sys, "argv", ["harm_table.py", str(folder / "runs"), "--out", str(folder / "table")]
    )
    monkeypatch.setattr(tool, "held_out", lambda space, part: held_out(space, part)[:3])
    with pytest.raises(SystemExit) as stop:
        tool.main()
    return stop.value.code, HarmTable.from_json(json.loads((folder / "table").read_text()), "table")


def test_harmed_networks_are_in_a_region_of_their_own(tool, monkeypatch, tmp_path, capsys):
    good = {f"good{k}": (["bn", "conv", "input"], 0.02) for k in range(8)}
    bad = {"bad": (["conv", "input", "msa"], -0.05)}
    write(tmp_path / "runs", good | bad)
    code, table = run(tool, monkeypatch, tmp_path)
    output = capsys.readouterr().out
    assert code == 0, output
    # No other network has attention, so that `auto` is classical for this one.
    assert "each by a table of the others: predicted 8 of 9" in output
    assert "harmed: none" in output
    assert [(region.networks, region.difference) for region in table.worse] == [(1, -0.05)]
    assert table.networks == 9
    assert table.difference == pytest.approx((8 * 0.02 - 0.05) / 9, abs=1e-4)


def test_it_says_how_many_others_are_like_those_that_were_tested(
    tool, monkeypatch, tmp_path, capsys
):
    write(tmp_path / "runs", {"good": (["bn", "conv"], 0.02)})
    _, table = run(tool, monkeypatch, tmp_path)
    assert capsys.readouterr().out.endswith("of 3 others of the generator: predicted 0\n")
    wide = dataclasses.replace(
        table, types=frozenset(TYPES), ranges=dict.fromkeys(QUANTITIES, (1, 10**9))
    )
    monkeypatch.setattr(tool, "held_out", lambda space, part: held_out(space, part)[:3])
    assert tool.coverage(wide) == "of 3 others of the generator: predicted 3"
    all_of_them = Region(name="all", networks=1, difference=-1.0, ranges={"depth": (1, None)})
    assert tool.coverage(dataclasses.replace(wide, worse=(all_of_them,))).endswith("predicted 0")


def test_mostly_classical_fails(tool, monkeypatch, tmp_path, capsys):
    write(tmp_path / "runs", {"a": (["msa"], -0.05), "b": (["bn"], 0.02)}, generated=False)
    write(tmp_path / "runs", {"c": (["bn"], 0.02), "d": (["bn", "msa"], -0.02)})
    code, _ = run(tool, monkeypatch, tmp_path)
    assert code == 1
    assert "FAIL: predicted 50% of generated networks, at least 80%" in capsys.readouterr().out


def test_networks_alike_do_not_keep_it_from_ending(tool, monkeypatch, tmp_path):
    write(tmp_path / "runs", {"a": (["bn"], -0.05), "b": (["bn"], 0.02)})
    _, table = run(tool, monkeypatch, tmp_path)
    assert [region.networks for region in table.worse] == [2]


def test_a_loss_that_other_networks_do_not_foretell_is_told(tool, monkeypatch, tmp_path, capsys):
    good = {f"good{k}": (["bn", "conv"], 0.02) for k in range(4)}
    write(tmp_path / "runs", good | {"bad": (["conv"], -0.05)})
    run(tool, monkeypatch, tmp_path)
    assert "predicted 5 of 5" in (output := capsys.readouterr().out)
    assert output.splitlines()[-2].endswith("harmed: bad")


def test_classical_runs_are_asked_for_where_auto_takes_them(tool, monkeypatch, tmp_path, capsys):
    good = {f"good{k}": (["bn", "conv"], 0.02) for k in range(8)}
    write(tmp_path / "runs", good | {"bad": (["msa"], -0.05)}, starts=("predicted", "kaiming"))
    code, _ = run(tool, monkeypatch, tmp_path)
    assert code == 1
    assert "FAIL: no runs from the classical start, where auto takes it: bad" in (
        output := capsys.readouterr().out
    )
    assert "pass: predicted 89% of generated networks" in output
    write(tmp_path / "runs", {"bad": (["msa"], -0.05)}, starts=("classical",))
    assert run(tool, monkeypatch, tmp_path)[0] == 0


def test_only_the_newest_archive_counts(tool, monkeypatch, tmp_path):
    networks = {f"good{k}": (["bn", "conv"], 0.02) for k in range(4)}
    harmed = {name: (types, -0.05) for name, (types, _) in networks.items()}
    write(tmp_path / "runs", harmed, archive="old")
    assert run(tool, monkeypatch, tmp_path)[0] == 1
    write(tmp_path / "runs", networks, starts=("predicted",))
    code, table = run(tool, monkeypatch, tmp_path)
    assert (code, table.worse) == (0, ())
