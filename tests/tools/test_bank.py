"""Which archive of a run may become the one that ships, and what it is written as."""

import dataclasses
import json

import numpy as np
import pytest

from onnx_ghn.errors import ArchiveError
from onnx_ghn.hypernet import archive
from onnx_ghn.hypernet.archive import load_archive, read_info, read_weights, write_archive
from onnx_ghn.hypernet.harm import HarmTable
from onnx_ghn.measures import QUANTITIES

TABLE = HarmTable(
    measure="accuracy",
    networks=1,
    difference=0.0,
    types=frozenset({"conv"}),
    ranges=dict.fromkeys(QUANTITIES, (1, None)),
    reach=1.0,
)


@pytest.fixture(scope="module")
def tool(load_tool):
    return load_tool("bank")


@pytest.fixture
def shipped(tool, untrained_file, tmp_path, monkeypatch):
    """A place of its own for the archive that ships, which is an untrained one."""
    file = tmp_path / "weights" / "hypernet.pt"
    write_archive(file, read_info(untrained_file).config, read_weights(untrained_file))
    monkeypatch.setattr(archive, "SHIPPED", file)
    monkeypatch.setattr(tool, "SHIPPED", file)
    return file


@pytest.fixture
def run(untrained_file, tmp_path):
    """Makes the archive of a run: `run(mean, space="narrow")`."""

    def make(mean, space="narrow"):
        row = {"space": space, "side": 16, "mean": mean, "architectures": 30, "families": {}}
        config = read_info(untrained_file).config
        config = dataclasses.replace(config, name="run", trained=True, held_out=(row,), licence="")
        file = tmp_path / f"{space}{mean}.pt"
        return write_archive(file, config, read_weights(untrained_file)).path

    return make


def test_a_better_archive_ships_in_half_precision(tool, shipped, run, tmp_path):
    log = tmp_path / "banked.jsonl"
    tool.bank(run(0.5), "first", TABLE, log)
    info = read_info()
    assert (info.path, info.name, info.config.licence) == (shipped, "first", "MIT")
    assert info.config.harm == TABLE
    assert {tensor.dtype for tensor in read_weights(shipped).values()} == {np.dtype(np.float16)}
    load_archive(engine="onnxruntime")
    with pytest.raises(ArchiveError, match=r"0\.5050 .* first, which ships, has 0\.5000"):
        tool.bank(run(0.505), "second", None, log)
    assert read_info() == info
    tool.bank(run(0.51), "third", None, log)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["mean"] for line in lines for row in line["val"]] == [0.5, 0.51]
    assert lines[1]["sha256"] == read_info().sha256
    with pytest.raises(ArchiveError, match="nothing to compare"):
        tool.bank(run(0.9, "full"), "other", None, log)
    tool.bank(run(0.4, "full"), "other", None, log, anew=True)
    log.write_text(log.read_text() * 4)
    with pytest.raises(ArchiveError, match="10 at most"):
        tool.bank(run(0.99, "full"), "last", None, log)


def test_lists_count_together(tool, untrained_file):
    config = read_info(untrained_file).config

    def archive_of(*means):
        rows = (
            {"space": f"{k}", "side": 32, "architectures": 100, "mean": mean}
            for k, mean in enumerate(means)
        )
        return dataclasses.replace(config, trained=True, held_out=tuple(rows))

    rows = tool.compare(archive_of(0.49, 0.55), archive_of(0.5, 0.5))
    assert [row["mean"] for row in rows] == [0.49, 0.55]
    with pytest.raises(ArchiveError, match=r"mean 0\.5050 .* has 0\.5000"):
        tool.compare(archive_of(0.49, 0.52), archive_of(0.5, 0.5))


def test_an_untrained_archive_is_refused(tool, shipped, untrained_file, tmp_path):
    with pytest.raises(ArchiveError, match="untrained"):
        tool.bank(untrained_file, "name", None, tmp_path / "log")


def test_a_weight_that_half_precision_cannot_hold_is_an_error(tool):
    with pytest.raises(ArchiveError, match="'large'"):
        tool.halved({"large": np.array([1e5], np.float32)})
    kept = tool.halved({"count": np.array([1 << 40])})
    assert kept["count"].dtype == np.int64


def test_the_shipped_archive_gets_a_table(tool, shipped, tmp_path, monkeypatch, capsys):
    file = tmp_path / "table.json"
    file.write_text(json.dumps(TABLE.to_json()))
    before = read_weights(shipped)
    monkeypatch.setattr("sys.argv", ["bank.py", "--harm", str(file)])
    assert tool.main() == 0
    assert read_info().config.harm == TABLE
    assert all(np.array_equal(read_weights(shipped)[key], value) for key, value in before.items())
    file.write_text("{}")
    assert tool.main() == 2
    assert "lacks 'format'" in capsys.readouterr().err
