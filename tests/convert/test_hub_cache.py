"""The hub's own client, on a cache folder that is laid out as it does; nothing is downloaded."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from onnx_ghn.convert.hub import REPOSITORY, download
from onnx_ghn.errors import ArchiveError

pytest.importorskip("huggingface_hub", reason="it is an extra: pip install 'onnx-ghn[hub]'")

CHECKPOINT = Path(__file__).parent.parent / "hypernet" / "data" / "ghn2tiny_hf.pt"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def blob(tmp_path):
    """The cached file, behind a link to a file that is named by its hash."""
    repository = tmp_path / "cache" / f"models--{REPOSITORY.replace('/', '--')}"
    content = CHECKPOINT.read_bytes()
    blob = repository / "blobs" / hashlib.sha256(content).hexdigest()
    snapshot = repository / "snapshots" / COMMIT
    for folder in (blob.parent, snapshot, repository / "refs"):
        folder.mkdir(parents=True)
    blob.write_bytes(content)
    (snapshot / "ghn2.pt").symlink_to(os.path.relpath(blob, snapshot))
    (repository / "refs" / "main").write_text(COMMIT)
    return blob


def convert(tmp_path, name):
    """`convert --from-hub NAME` from the cache only, in a process of its own."""
    command = [sys.executable, "-m", "onnx_ghn", "convert", "--from-hub", name, "--offline"]
    command += ["--cache", str(tmp_path / "cache"), "-o", str(tmp_path / "out" / "ghn2.pt")]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_cached_checkpoint_converts_offline(blob, tmp_path):
    result = convert(tmp_path, "ghn2")
    assert result.returncode == 0, result.stderr
    assert "GHN-2, 8 wide" in result.stdout
    text = (tmp_path / "out" / "ghn2.json").read_text()
    assert blob.name in text and "ghn2.pt" in text


def test_what_the_cache_lacks_is_one_line(blob, tmp_path):
    result = convert(tmp_path, "ghn3tm8")
    assert result.returncode == 2
    assert "ghn3tm8 can't be downloaded" in result.stderr
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_cached_file_that_isnt_what_the_hub_recorded_is_refused(blob):
    blob.write_bytes(blob.read_bytes()[:-1] + b"!")
    with pytest.raises(ArchiveError, match="damaged"):
        download("ghn2", cache=blob.parents[2], offline=True)
