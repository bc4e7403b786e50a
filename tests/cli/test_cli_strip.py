"""strip and --shard-size as a user meets them."""

import json

import onnx
import pytest


@pytest.fixture
def filled(light, tmp_path, run):
    path = tmp_path / "net.onnx"
    path.write_bytes((light / "light_squeezenet.onnx").read_bytes())
    assert run("init", path, "--in-place", "--method", "classical").returncode == 0
    return path


def test_strip_then_init_gives_the_file_again(filled, run):
    before = filled.read_bytes()
    result = run("strip", filled, "--format", "json")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["format"] == 1
    removed = [entry for entry in report["initializers"] if entry["status"] == "removed"]
    assert len(removed) == report["summary"]["tensors"]["removed"] > 40
    skeleton = filled.with_name("net.skeleton.onnx")
    assert skeleton.stat().st_size < 100_000
    assert filled.read_bytes() == before
    result = run("init", skeleton, "-o", filled.with_name("again.onnx"), "--method", "classical")
    assert result.returncode == 0, result.stderr
    assert filled.with_name("again.onnx").read_bytes() == before


def test_strip_respects_what_exists(filled, run):
    skeleton = filled.with_name("net.skeleton.onnx")
    skeleton.write_bytes(b"precious")
    refused = run("strip", filled)
    assert refused.returncode == 2 and "--force" in refused.stderr
    assert skeleton.read_bytes() == b"precious"
    assert run("strip", filled, "--force").returncode == 0
    assert run("strip", filled, "-o", filled).returncode == 2
    assert run("strip", filled, "--in-place", "-q").returncode == 0
    assert filled.read_bytes() == skeleton.read_bytes()


def test_strip_with_a_pattern_is_a_finding_under_strict(filled, run):
    assert run("strip", filled, "--strict", "-q").returncode == 0
    assert run("strip", filled, "--strict", "--force", "--exclude", "*conv10*").returncode == 1


@pytest.mark.parametrize(
    ("text", "limit"), [("1MB", 10**6), ("1.5MiB", 3 << 19), ("700000", 700000)]
)
def test_shard_size(filled, run, text, limit):
    out = filled.with_name("out.onnx")
    options = ("-o", out, "--method", "classical", "--shard-size", text)
    assert run("init", filled, *options).returncode == 0
    shards = sorted(out.parent.glob("out.onnx-*.data"))
    assert len(shards) > 1
    largest = max(len(tensor.raw_data) for tensor in onnx.load(filled).graph.initializer)
    assert max(path.stat().st_size for path in shards) <= max(limit, largest)
    stored = [tensor.raw_data for tensor in onnx.load(out).graph.initializer]
    assert sum(map(len, stored)) == sum(
        len(tensor.raw_data) for tensor in onnx.load(filled).graph.initializer
    )


@pytest.mark.parametrize("text", ["0", "-1", "many", "1XB", "", "1e9"])
def test_what_is_no_size(filled, run, text):
    before = sorted(filled.parent.iterdir())
    result = run("init", filled, "--shard-size", text)
    assert result.returncode == 2 and "size" in result.stderr
    assert sorted(filled.parent.iterdir()) == before


def test_max_bytes_takes_a_size(filled, run):
    refused = run("strip", filled, "--max-bytes", "1MB")
    assert refused.returncode == 2 and "--max-bytes" in refused.stderr
    assert run("strip", filled, "--max-bytes", "1GiB").returncode == 0
