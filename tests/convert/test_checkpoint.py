from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from onnx_ghn.convert.checkpoint import convert_checkpoint
from onnx_ghn.convert.unpickle import read_checkpoint
from onnx_ghn.errors import ArchiveError
from onnx_ghn.hypernet.archive import load_archive, load_network, read_info

DATA = Path(__file__).parent.parent / "hypernet" / "data"


def test_a_conversion_says_where_it_comes_from(tmp_path):
    config = convert_checkpoint(DATA / "ghn3_tiny_hf.pt", tmp_path / "tiny.pt")
    assert read_info(tmp_path / "tiny.pt").config == config
    assert config.name == "tiny"
    assert config.trained
    assert config.provenance["algorithm"] == "GHN-3"
    assert config.provenance["converted_from"] == "ghn3_tiny_hf.pt"
    assert len(config.provenance["sha256"]) == 64


def test_converting_twice_gives_the_same_bytes(tmp_path):
    for folder in ("a", "b"):
        convert_checkpoint(DATA / "ghn2tiny_hf.pt", tmp_path / folder / "tiny.pt")
    for suffix in ("pt", "json", "safetensors"):
        first, second = (tmp_path / folder / f"tiny.{suffix}" for folder in "ab")
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("modern", [True, False])
def test_what_a_trainer_saves_gives_the_same_weights(tmp_path, modern):
    published = read_checkpoint(DATA / "ghn3_tiny_hf.pt")
    state = {
        f"gnn.0.{k}" if k.startswith(("centrality", "input_dist")) else k: torch.tensor(v)
        for k, v in published.items()
    }
    saved = {"state_dict": state, "optimizer": {}, "epoch": 2, "args": Namespace(ckpt=None)}
    torch.save(saved, tmp_path / "trainer.pt", _use_new_zipfile_serialization=modern)
    convert_checkpoint(DATA / "ghn3_tiny_hf.pt", tmp_path / "a.pt")
    convert_checkpoint(tmp_path / "trainer.pt", tmp_path / "b.pt")
    first, second = (load_network(tmp_path / name)[0].state_dict() for name in ("a.pt", "b.pt"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_half_precision_weights_are_widened(tmp_path):
    published = read_checkpoint(DATA / "ghn2tiny_hf.pt")
    torch.save({k: torch.tensor(v).half() for k, v in published.items()}, tmp_path / "half.pt")
    convert_checkpoint(tmp_path / "half.pt", tmp_path / "out.pt")
    state = load_network(tmp_path / "out.pt")[0].state_dict()
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


def test_a_layer_that_is_missing_is_an_error_that_names_it(tmp_path):
    published = read_checkpoint(DATA / "ghn2tiny_hf.pt")
    del published["gnn.mlp_ve.fc.2.bias"]
    torch.save({k: torch.tensor(v) for k, v in published.items()}, tmp_path / "part.pt")
    with pytest.raises(ArchiveError, match=r"encoder\.far_message\.outer\.bias"):
        convert_checkpoint(tmp_path / "part.pt", tmp_path / "out.pt")
    assert not (tmp_path / "out.pt").exists()


def test_a_checkpoint_of_something_else_is_an_error(tmp_path):
    torch.save({"conv1.weight": torch.zeros(3)}, tmp_path / "resnet.pt")
    with pytest.raises(ArchiveError, match="isn't a GHN-2 or GHN-3"):
        convert_checkpoint(tmp_path / "resnet.pt", tmp_path / "out.pt")


def test_a_link_to_a_checkpoint_is_followed(tmp_path):
    (tmp_path / "blob").write_bytes((DATA / "ghn2tiny_hf.pt").read_bytes())
    (tmp_path / "ghn2.pt").symlink_to("blob")
    convert_checkpoint(tmp_path / "ghn2.pt", tmp_path / "out.pt")
    states = load_archive(tmp_path / "out.pt").engine.encode(
        np.zeros((1, 5), np.int64), np.zeros((1, 1), np.int64)
    )
    assert np.isfinite(states).all()
