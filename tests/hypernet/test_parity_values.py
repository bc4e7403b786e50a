from pathlib import Path

import pytest

from onnx_ghn.convert.checkpoint import convert_checkpoint
from onnx_ghn.hypernet.archive import load_archive

DATA = Path(__file__).parent / "data"
SMALL = sorted(DATA.glob("*/*.npz"))


@pytest.mark.parametrize("file", SMALL, ids=lambda f: f"{f.parent.name}-{f.stem}")
def test_values_agree_with_the_reference(file, archives, parity_values):
    found = parity_values.compare(file, archives[file.parent.name])
    assert found.parameters > 30
    assert found.shape_rows == 0
    assert found.values < 1e-5


@pytest.mark.parity
@pytest.mark.parametrize(
    "name", ["ghn3_tiny", "ghn3_t", "ghn2tiny_viaghn3", "ghn2_viaghn3"], ids=str
)
def test_all_values_agree_with_the_reference(name, parity, parity_values, tmp_path):
    target = tmp_path / "archive.pt"
    convert_checkpoint(parity / "checkpoints" / parity_values.CHECKPOINTS[name], target)
    archive = load_archive(target)
    files = sorted((parity / "fixtures" / name).glob("*.npz"))
    assert len(files) >= 9
    for file in files:
        found = parity_values.compare(file, archive)
        assert found.shape_rows == 0, file
        assert found.values < 1e-5, file
