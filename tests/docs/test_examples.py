"""The examples in the documentation and the README, run in the order in which they are read.

Blocks marked `sh` and `python` are run; `console` is for what installs things or needs a device.
"""

import re
import shlex
import sys
from pathlib import Path

import pytest

from onnx_ghn.cli import main

DOCS = Path(__file__).parent.parent.parent / "docs"
PAGES = ["index", "skeletons", "external-data", "toolchains", "cuda", "troubleshooting"]
ELSEWHERE = {"use", "olive"}
"""Pages with tests of their own: tests/test_docs.py, tests/integrations/test_olive.py."""
PRINTS = {
    "index": "",
    "skeletons": "(1, 1000) True",
    "external-data": "['ready.onnx']",
    "toolchains": "True ['Conv', 'BatchNormalization']",
    "cuda": ": top-1 100%",
    "troubleshooting": "once.onnx 1.0 True\nplanned.onnx 1.0 True",
}


def blocks(page):
    text = (DOCS / f"{page}.md").read_text("utf-8")
    return re.findall(r"^```(python|sh)\n(.*?)^```", text, re.M | re.S)


def test_every_page_with_examples_is_run():
    with_examples = {path.stem for path in DOCS.glob("*.md") if blocks(path.stem)}
    assert with_examples <= {*PAGES, *ELSEWHERE}


@pytest.mark.parametrize("page", PAGES)
def test_examples(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scope = {}
    for language, code in blocks(page):
        if language == "python":
            exec(compile(code, f"docs/{page}.md", "exec"), scope)
            continue
        for line in code.strip().splitlines():
            monkeypatch.setattr(sys, "argv", shlex.split(line, comments=True))
            with pytest.raises(SystemExit) as exit:
                main()
            assert exit.value.code == 0, line
    assert PRINTS[page] in capsys.readouterr().out
