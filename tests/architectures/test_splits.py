from collections import Counter

import pytest

from onnx_ghn.architectures.key import graph_key
from onnx_ghn.architectures.sample import FAMILY, sample
from onnx_ghn.architectures.spaces import SPACES
from onnx_ghn.architectures.splits import SPLITS, held_out, held_out_keys
from onnx_ghn.errors import OptionError


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("part", ["val", "test"])
def test_the_seeds_still_give_the_recorded_graphs(split, part):
    entries = held_out(split, part)
    assert len(entries) >= 100
    count = 2 if split == "deep" else 10
    for entry in entries[:count]:
        assert graph_key(sample(entry.space, entry.seed)) == entry.key


def test_no_graph_is_in_two_lists():
    keys = [e.key for split in SPLITS for part in ("val", "test") for e in held_out(split, part)]
    assert len(keys) == len(set(keys))
    assert set(keys) == held_out_keys()


@pytest.mark.parametrize(("split", "share"), [("in-distribution", 0.05), ("broad", 0.02)])
@pytest.mark.parametrize("part", ["val", "test"])
def test_every_family_has_its_share_of_the_main_lists(split, share, part):
    entries = held_out(split, part)
    families = Counter(sample(e.space, e.seed).metadata_props[FAMILY] for e in entries)
    expected = SPACES[SPLITS[split]].families
    assert all(families[family] >= share * len(entries) for family in expected)


def test_the_space_names_its_split():
    assert held_out("full", "val") == held_out("in-distribution", "val")


def test_an_unknown_split_is_refused():
    with pytest.raises(OptionError, match="in-distribution"):
        held_out("everything", "val")
    with pytest.raises(OptionError, match="val or test"):
        held_out("narrow", "train")
