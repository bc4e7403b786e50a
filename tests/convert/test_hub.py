import hashlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from onnx_ghn.convert.checkpoint import convert_checkpoint
from onnx_ghn.convert.hub import PUBLISHED, REPOSITORY, download
from onnx_ghn.errors import ArchiveError, MissingDependencyError, OptionError

CHECKPOINT = Path(__file__).parent.parent / "hypernet" / "data" / "ghn2tiny_hf.pt"


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A module in the place of huggingface_hub that has one file, cached as the real one does."""
    content = CHECKPOINT.read_bytes()
    blob = tmp_path / "blobs" / hashlib.sha256(content).hexdigest()
    blob.parent.mkdir()
    blob.write_bytes(content)

    def hf_hub_download(repo_id, filename, cache_dir, local_files_only):
        module.asked = (repo_id, filename, cache_dir, local_files_only)
        if filename != "ghn2.pt":
            raise RuntimeError("404 Client Error.\nEntry Not Found")
        snapshot = tmp_path / "snapshots" / filename
        snapshot.parent.mkdir(exist_ok=True)
        snapshot.symlink_to(blob)
        return str(snapshot)

    module = ModuleType("huggingface_hub")
    module.hf_hub_download = hf_hub_download
    module.blob = blob
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    return module


def test_a_download_is_found_behind_the_caches_link_and_converts(hub, tmp_path):
    path = download("ghn2", cache=tmp_path, offline=True)
    assert hub.asked == (REPOSITORY, "ghn2.pt", tmp_path, True)
    assert path.is_symlink()
    config = convert_checkpoint(path, tmp_path / "out.pt")
    assert config.provenance["converted_from"] == "ghn2.pt"
    assert config.provenance["sha256"] == hub.blob.name


def test_a_damaged_download_is_an_error(hub):
    hub.blob.write_bytes(b"half of it")
    with pytest.raises(ArchiveError, match="damaged"):
        download("ghn2")


def test_a_failed_download_is_one_line(hub):
    with pytest.raises(ArchiveError, match=r"ghn3tm8 can't be downloaded: 404 Client Error\.$"):
        download("ghn3tm8")


def test_an_unknown_name_is_an_error():
    with pytest.raises(OptionError, match="ghn3xlm16"):
        download("ghn4")
    assert len(PUBLISHED) == 5


def test_a_missing_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingDependencyError, match=r"onnx-ghn\[hub\]"):
        download("ghn2")
