"""The whole path over the corpus: valid output, nothing else changed, finite in ONNX Runtime."""

import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parent.parent.parent / "tools" / "corpus_init.py"


def run_over(corpus, *arguments):
    result = subprocess.run(
        [sys.executable, TOOL, "--corpus", corpus, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-1000:]
    assert "without a problem" in result.stdout


@pytest.mark.corpus
@pytest.mark.parametrize(("method", "offset"), [("ghn", "3"), ("classical", "9")])
def test_a_sample_of_the_corpus(corpus, method, offset):
    run_over(corpus, "--method", method, "--every", "28", "--offset", offset)


@pytest.mark.corpus
@pytest.mark.long
@pytest.mark.parametrize("method", ["ghn", "classical"])
def test_the_whole_corpus(corpus, method):
    run_over(corpus, "--method", method)
