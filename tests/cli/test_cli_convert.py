from pathlib import Path

import pytest
from click.testing import CliRunner

from onnx_ghn.cli.convert import command
from onnx_ghn.errors import ArchiveError, OptionError
from onnx_ghn.hypernet.archive import read_info

CHECKPOINT = Path(__file__).parent.parent / "hypernet" / "data" / "ghn2tiny_hf.pt"


def run(*arguments):
    return CliRunner().invoke(command, [str(a) for a in arguments], standalone_mode=False)


def test_a_checkpoint_becomes_an_archive(tmp_path):
    result = run(CHECKPOINT, "-o", tmp_path / "new" / "ghn2.pt")
    assert result.exception is None
    assert "GHN-2, 8 wide, 1 layer(s), tiles of 16 x 16, 10 classes" in result.stdout
    assert read_info(tmp_path / "new" / "ghn2.pt").name == "ghn2"


def test_an_archive_is_overwritten_only_by_force(tmp_path):
    (tmp_path / "ghn2.pt").write_text("precious")
    result = run(CHECKPOINT, "-o", tmp_path / "ghn2.pt")
    assert isinstance(result.exception, OptionError)
    assert (tmp_path / "ghn2.pt").read_text() == "precious"
    assert run(CHECKPOINT, "-o", tmp_path / "ghn2.pt", "--force").exception is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "either"),
        ([CHECKPOINT, "--from-hub", "ghn2"], "either"),
        (["--from-hub", "ghn4"], "unknown checkpoint"),
    ],
)
def test_bad_usage_is_an_error(tmp_path, arguments, message):
    result = run(*arguments, "-o", tmp_path / "out.pt")
    assert isinstance(result.exception, OptionError)
    assert message in str(result.exception)


def test_the_name_must_tell_that_it_is_an_archive(tmp_path):
    result = run(CHECKPOINT, "-o", tmp_path / "out")
    assert isinstance(result.exception, OptionError)


def test_the_checkpoint_itself_is_never_overwritten(tmp_path):
    copy = tmp_path / "ghn2.pt"
    copy.write_bytes(CHECKPOINT.read_bytes())
    result = run(copy, "-o", copy, "--force")
    assert isinstance(result.exception, OptionError)
    assert copy.read_bytes() == CHECKPOINT.read_bytes()


def test_a_bad_checkpoint_is_an_error(tmp_path):
    (tmp_path / "bad.pt").write_bytes(b"no checkpoint")
    result = run(tmp_path / "bad.pt", "-o", tmp_path / "out.pt")
    assert isinstance(result.exception, ArchiveError)
    assert not (tmp_path / "out.pt").exists()
