import copy
import json
import re
from pathlib import Path

import pytest

from onnx_ghn.errors import ArchiveError
from onnx_ghn.hypernet.harm import HarmTable
from onnx_ghn.measures import Measures

TABLE = {
    "format": 1,
    "measure": "accuracy after 1,000 steps against the best classical start",
    "networks": 16,
    "difference": 0.012,
    "tested": {
        "types": ["bias", "bn", "conv", "glob_avg", "input", "msa", "sum"],
        "parameters": [5000, 1000000],
        "depth": [6, 120],
        "width": [8, None],
        "side": [32, 32],
    },
    "reach": 2.0,
    "worse": [
        {"name": "no norm", "without": ["bn", "ln"], "networks": 4, "difference": -0.034},
        {
            "name": "large ViTs",
            "with": ["msa"],
            "parameters": [500000, None],
            "side": [None, 32],
            "networks": 2,
            "difference": -0.02,
        },
    ],
}


DOCS = Path(__file__).parents[2] / "docs" / "own-hypernetwork.md"


def network(*types, parameters=100_000, depth=20, width=64, side=32):
    return Measures(frozenset(types), parameters, depth, width, side)


def test_a_table_survives_json():
    assert HarmTable.from_json(TABLE, "file").to_json() == TABLE


def test_the_documented_example_is_a_table():
    (text,) = re.findall(r"```json\n(.*?)```", DOCS.read_text(), re.DOTALL)
    assert HarmTable.from_json(json.loads(text), "docs").to_json() == json.loads(text)


@pytest.mark.parametrize(
    ("member", "regions"),
    [
        (network("conv", "bn"), []),
        (network("conv"), ["no norm"]),
        (network("conv", "ln", "msa"), []),
        (network("ln", "msa", parameters=500_000), ["large ViTs"]),
        (network("ln", "msa", parameters=499_999), []),
        (network("ln", "msa", parameters=500_000, side=33), []),
        (network("ln", "msa", parameters=500_000, side=0), []),
        (network("msa", parameters=500_000), ["no norm", "large ViTs"]),
    ],
)
def test_regions_hold_what_meets_all_their_conditions(member, regions):
    table = HarmTable.from_json(TABLE, "file")
    assert [region.name for region in table.worse if region.holds(member)] == regions


@pytest.mark.parametrize(
    ("member", "words"),
    [
        (network("conv", "bn"), []),
        (network("conv", "cse"), ["no tested network has cse"]),
        (network("conv", parameters=2_000_000, width=10**9), []),
        (network("conv", parameters=2_000_001), ["parameters 2,000,001, tested up to 1,000,000"]),
        (network("conv", depth=3), []),
        (network("conv", depth=2), ["depth 2, tested from 6"]),
        (network("conv", side=224), ["side 224, tested up to 32"]),
        (network("conv", side=0), []),
    ],
)
def test_what_is_far_outside(member, words):
    assert list(HarmTable.from_json(TABLE, "file").outside(member)) == words


def changed(*path, value):
    table = copy.deepcopy(TABLE)
    part = table
    for key in path[:-1]:
        part = part[key]
    if value is None:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    return table


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ([], "no JSON object"),
        (changed("format", value=2), "its format is 2"),
        (changed("reach", value=None), "lacks 'reach'"),
        (changed("reach", value=0.5), "reach is 0.5"),
        (changed("reach", value=float("nan")), "reach is no number"),
        (changed("difference", value=True), "difference is no number"),
        (changed("networks", value=0), "networks is no count"),
        (changed("measure", value=1), "measure is no text"),
        (changed("extra", value=1), "unknown field 'extra'"),
        (changed("worse", value={}), "worse is no list"),
        (changed("tested", "side", value=None), "lacks 'side'"),
        (changed("tested", "side", value=[64, 32]), "starts after it ends"),
        (changed("tested", "side", value=[32]), "no pair"),
        (changed("tested", "side", value=[1.5, 2]), "no pair"),
        (changed("tested", "types", value="conv"), "no list of node types"),
        (changed("tested", "types", value=["lstm"]), "names 'lstm'"),
        (changed("worse", 0, "without", value=None), "has no condition"),
        (changed("worse", 0, "name", value=None), "lacks 'name'"),
        (changed("worse", 0, "height", value=[1, 2]), "unknown field 'height'"),
        (changed("worse", 1, "with", value=["vit"]), "names 'vit'"),
    ],
)
def test_what_is_no_table_is_an_error_that_names_the_file(table, message):
    with pytest.raises(ArchiveError, match=r"file\.json: .*do-no-harm table") as caught:
        HarmTable.from_json(table, "file.json")
    assert message in str(caught.value)
