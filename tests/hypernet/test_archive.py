import dataclasses
import json
import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from onnx_ghn.errors import ArchiveError, OptionError
from onnx_ghn.hypernet import archive as archive_module
from onnx_ghn.hypernet.archive import (
    CONFIG_FILE,
    SHIPPED,
    load_archive,
    load_network,
    read_info,
    read_weights,
    write_archive,
)
from onnx_ghn.hypernet.config import FORMAT, GATED, GRAPHORMER, ArchiveConfig, NetworkConfig
from onnx_ghn.hypernet.engines import TorchEngine
from onnx_ghn.hypernet.model import Hypernetwork

SMALL = NetworkConfig(
    encoder=GRAPHORMER, hidden=8, heads=2, layers=1, channels=(4, 4), side=3, classes=2
)


def small(encoder=GRAPHORMER, **changes):
    network = dataclasses.replace(SMALL, encoder=encoder)
    config = ArchiveConfig(name="small", network=network, trained=False, **changes)
    torch.manual_seed(0)
    module = Hypernetwork(network).eval()
    return config, module, {k: v.numpy() for k, v in module.state_dict().items()}


@pytest.fixture
def written(tmp_path):
    config, _, state = small()
    return write_archive(tmp_path / "small.pt", config, state).path


def inputs():
    features = np.zeros((3, 5), np.int64)
    features[:, 0] = [9, 4, 11]
    distance = np.array([[0, 1, 2], [0, 0, 1], [0, 0, 0]])
    return features, distance


@pytest.mark.parametrize("encoder", [GRAPHORMER, GATED])
def test_a_compiled_archive_gives_the_bits_of_the_eager_network(tmp_path, encoder):
    config, module, state = small(encoder)
    info = write_archive(tmp_path / "small.pt", config, state)
    assert info.config == config
    compiled, eager = load_archive(info.path).engine, TorchEngine(module)
    features, distance = inputs()
    states = compiled.encode(features, distance)
    np.testing.assert_array_equal(states, eager.encode(features, distance))
    for method, size in (
        ("decode_weight", (4, 3, 2, 2)),
        ("decode_weight", (4, 3, 5, 1)),
        ("decode_class_weight", (3,)),
        ("decode_vector", (3,)),
        ("decode_class_bias", ()),
    ):
        np.testing.assert_array_equal(
            getattr(compiled, method)(states, features, *size),
            getattr(eager, method)(states, features, *size),
        )


def test_the_shipped_archive_says_what_it_is():
    info = read_info()
    assert info.path == SHIPPED
    assert info.trained is bool(info.config.held_out)
    assert info.config.licence == "MIT"
    assert len(info.sha256) == 64


def test_the_shipped_files_take_little_room():
    files = list(SHIPPED.parent.iterdir())
    assert {file.stem.split(".")[0] for file in files} == {SHIPPED.stem, "SHA256SUMS"}
    assert sum(file.stat().st_size for file in files) < 15e6


def test_a_description_needs_no_torch():
    code = (
        "import sys; from onnx_ghn.hypernet.archive import read_info; "
        "import onnx_ghn.hypernet.predict; "
        "print(read_info().name, 'torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.split() == [read_info().name, "False"], result.stderr


def test_the_trainable_network_comes_from_the_safetensors(written):
    network, config = load_network(written)
    features, distance = map(torch.from_numpy, inputs())
    states = network.encode(features, distance)
    states.sum().backward()
    assert config == read_info(written).config
    assert all(p.grad is not None for p in network.encoder.parameters())
    expected = load_archive(written).engine.encode(*inputs())
    np.testing.assert_allclose(states.detach().numpy(), expected, atol=1e-6)


def test_weights_stored_in_half_precision_compute_in_float32(tmp_path):
    config, module, state = small()
    half = {key: value.astype(np.float16) for key, value in state.items()}
    info = write_archive(tmp_path / "half.pt", config, half)
    whole = write_archive(tmp_path / "whole.pt", config, state)
    assert info.path.stat().st_size < whole.path.stat().st_size
    assert {value.dtype for value in read_weights(info.path).values()} == {np.dtype(np.float16)}
    module.load_state_dict({key: torch.from_numpy(v).float() for key, v in half.items()})
    features, distance = inputs()
    expected = TorchEngine(module).encode(features, distance)
    np.testing.assert_array_equal(load_archive(info.path).engine.encode(*inputs()), expected)
    runtime = load_archive(info.path, engine="onnxruntime").engine.encode(*inputs())
    np.testing.assert_allclose(runtime, expected, atol=1e-6)
    network, _ = load_network(info.path)
    assert {value.dtype for value in network.parameters()} == {torch.float32}


def test_loading_and_writing_are_silent(tmp_path):
    config, _, state = small()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_archive(write_archive(tmp_path / "small.pt", config, state).path)


def test_equal_weights_give_equal_bytes_whatever_the_path_and_hash_seed(tmp_path):
    root = Path(__file__).parents[2]
    made = []
    for seed in ("1", "2"):
        target = tmp_path / f"folder{seed}" / "untrained.pt"
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(root)}
        tool = [sys.executable, root / "tools" / "make_untrained.py", target]
        made.append((target, subprocess.Popen(tool, env=environment)))
    assert [process.wait() for _, process in made] == [0, 0]
    for suffix in (".pt", ".safetensors", ".json", ".encode.onnx"):
        first, second = (target.with_suffix(suffix).read_bytes() for target, _ in made)
        assert first == second, suffix


def test_no_path_of_the_machine_is_in_an_archive():
    with zipfile.ZipFile(SHIPPED) as archive:
        assert not [name for name in archive.namelist() if "debug" in name]
        code = b"".join(archive.read(n) for n in archive.namelist() if n.endswith((".py", ".pkl")))
    assert os.fsencode(SHIPPED.parent.parent) not in code


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(ArchiveError, match="no such hypernetwork archive"):
        load_archive(tmp_path / "absent.pt")


@pytest.mark.parametrize("content", [b"", b"not an archive", b"PK\x03\x04" + bytes(100)])
def test_a_file_of_another_kind_is_an_error(tmp_path, content):
    file = tmp_path / "other.pt"
    file.write_bytes(content)
    with pytest.raises(ArchiveError, match="not a hypernetwork archive"):
        load_archive(file)


def test_a_folder_is_an_error(tmp_path):
    with pytest.raises(ArchiveError, match="not a hypernetwork archive"):
        load_archive(tmp_path)


def test_a_plain_torch_file_is_an_error_that_says_convert(tmp_path):
    torch.save({"x": torch.zeros(2)}, tmp_path / "checkpoint.pt")
    with pytest.raises(ArchiveError, match="onnx-ghn convert"):
        load_archive(tmp_path / "checkpoint.pt")


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_a_truncated_archive_is_an_error(written, keep):
    content = written.read_bytes()
    written.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ArchiveError):
        load_archive(written)


def test_one_changed_byte_is_found_before_anything_is_loaded(written, monkeypatch):
    content = bytearray(written.read_bytes())
    content[len(content) // 2] ^= 1
    written.write_bytes(content)
    monkeypatch.setattr(torch.jit, "load", lambda *_, **__: pytest.fail("was loaded"))
    with pytest.raises(ArchiveError, match="sha256"):
        load_archive(written)


def test_a_users_archive_needs_no_sums(written):
    (written.parent / "SHA256SUMS").unlink()
    assert load_archive(written).info.name == "small"


def test_the_shipped_archive_needs_its_sums(written, monkeypatch):
    (written.parent / "SHA256SUMS").unlink()
    monkeypatch.setattr(archive_module, "SHIPPED", written)
    with pytest.raises(ArchiveError, match="missing from SHA256SUMS"):
        load_archive()


def test_sums_of_other_archives_stay(tmp_path):
    config, _, state = small()
    write_archive(tmp_path / "a.pt", config, state)
    write_archive(tmp_path / "b.pt", config, state)
    lines = (tmp_path / "SHA256SUMS").read_text().splitlines()
    names = [line.split()[1] for line in lines]
    for stem in "ab":
        assert {f"{stem}.json", f"{stem}.pt", f"{stem}.safetensors"} < set(names)
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([*names, "SHA256SUMS"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": FORMAT + 1}, "newer than this tool"),
        ({"vocabulary": {"name": "ghn", "version": 2}}, "vocabulary"),
        ({"vocabulary": {"name": "other", "version": 1}}, "vocabulary"),
        ({"nonsense": 1}, "nonsense"),
        ({"network": {}}, "lacks or misnames"),
        ({"vocabulary": "ghn"}, "damaged"),
        ({"columns": ["op", 3]}, "file: .*wrong type"),
        ({"columns": [["op"]]}, "file: .*wrong type"),
        ({"mean": ["0.5"]}, "file: .*wrong type"),
        ({"provenance": []}, "file: .*wrong type"),
        (
            {"network": {"encoder": GATED, "hidden": 8, "channels": [8], "side": 3, "classes": 5}},
            "file: .*sizes",
        ),
        (
            {
                "network": {
                    "encoder": GATED,
                    "hidden": 8,
                    "channels": [8, "8"],
                    "side": 3,
                    "classes": 5,
                }
            },
            "file: .*sizes",
        ),
        (
            {
                "network": {
                    "encoder": GATED,
                    "hidden": 0,
                    "channels": [8, 8],
                    "side": 3,
                    "classes": 5,
                }
            },
            "file: .*sizes",
        ),
    ],
)
def test_a_configuration_that_the_tool_does_not_know_is_an_error(change, message):
    text = json.dumps(json.loads(small()[0].to_json()) | change)
    with pytest.raises(ArchiveError, match=message):
        ArchiveConfig.from_json(text, "file")


@pytest.mark.parametrize("text", ["", "[]", "{", '"text"', "{}", "[" * 100_000])
def test_a_damaged_configuration_is_an_error(text):
    with pytest.raises(ArchiveError, match="damaged"):
        ArchiveConfig.from_json(text, "file")


def test_a_configuration_survives_json():
    config = small(mean=(0.5, 0.5, 0.5), held_out=({"model": "a", "accuracy": 0.5},))[0]
    assert ArchiveConfig.from_json(config.to_json(), "file") == config


def test_weights_that_do_not_fit_are_an_error_and_leave_nothing(tmp_path):
    config, _, state = small()
    state["weight.outer.bias"] = np.zeros(3, np.float32)
    with pytest.raises(ArchiveError, match=r"weight\.outer\.bias"):
        write_archive(tmp_path / "small.pt", config, state)
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_engine_is_an_error():
    with pytest.raises(OptionError, match="abacus"):
        load_archive(engine="abacus")


def test_the_description_is_inside_the_torchscript_file(written):
    extra = {CONFIG_FILE: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.load(written, _extra_files=extra)
    text = extra[CONFIG_FILE]
    assert (text if isinstance(text, str) else text.decode()) == (
        written.with_suffix(".json").read_text()
    )
