"""The documentation builds without a warning and holds all commands and public names."""

import html
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import onnx_ghn
import onnx_ghn.passes
from onnx_ghn.cli import COMMANDS, cli

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site."""
    for package in ("mkdocs", "material", "mkdocstrings", "mkdocs_click"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("site")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    assert "WARNING" not in result.stderr
    return folder


def headings(path):
    text = path.read_text(encoding="utf-8")
    return {html.unescape(name) for name in re.findall(r'<h\d id="([^"]+)"', text)}


def test_every_command_and_option_is_in_the_reference(site):
    text = html.unescape((site / "cli.html").read_text(encoding="utf-8"))
    found = headings(site / "cli.html")
    assert "Sentinel" not in text and "<stem>" in text
    for name in COMMANDS:
        assert name in found or f"onnx-ghn-{name}" in found, f"{name}: {sorted(found)}"
        command = cli.get_command(None, name)
        for parameter in command.params:
            for flag in parameter.opts if parameter.param_type_name == "option" else ():
                assert flag in text, f"{name} {flag}"


def test_every_public_name_is_in_the_reference(site):
    found = headings(site / "python.html")
    for package in (onnx_ghn, onnx_ghn.passes):
        for name in package.__all__:
            home = getattr(package, name).__module__
            assert f"{home}.{name}" in found


def test_picture_is_there(site):
    assert (site / "data-flow.svg").read_bytes().startswith(b"<svg")
    assert "data-flow.svg" in (site / "concepts.html").read_text(encoding="utf-8")


def test_readme_points_to_files_that_exist():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert links
    for link in links:
        assert (ROOT / link).exists(), link
