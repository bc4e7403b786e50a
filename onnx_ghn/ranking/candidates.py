"""What is to be ranked: model files, and networks from the generator."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from onnx_ghn.errors import OptionError
from onnx_ghn.model_io.regular import read_small
from onnx_ghn.ranking.options import MOST_SAMPLED, RankOptions

MODEL_SUFFIX = ".onnx"
LIST_SUFFIX = ".txt"

MAX_PATH = 4096
"""Characters of a path, on any system."""

ModelPath = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Candidate:
    """One network to rank: a description of a few bytes; the model is made where it is scored.

    Attributes:
        name: As results call it: the path as it was given, or space and number.
        path: The absolute path of its file; "" for one from the generator.
        space, seed: What `sample` draws it from.
    """

    name: str
    path: str = ""
    space: str = ""
    seed: int = 0

    def load(self, image_side: int, classes: int) -> ir.Model:
        """The model.

        Args:
            image_side: Side of the images that a network from the generator takes, in pixels.
            classes: Its classes.

        Raises:
            ModelError: The file can't be read.
            OptionError: There is no such space.
        """
        if self.path:
            from onnx_ghn import model_io

            return model_io.load(self.path)
        from onnx_ghn.architectures.sample import sample

        return sample(self.space, self.seed, image_side=image_side, classes=classes)

    def stamp(self) -> str:
        """Size and time of change of the file, by which a result tells whether it is stale."""
        try:
            status = Path(self.path).stat()
        except OSError:
            return ""
        return f"{status.st_size}-{status.st_mtime_ns}" if self.path else ""


def candidates_of(models: Iterable[ModelPath], options: RankOptions) -> list[Candidate]:
    """All candidates, each once, in the order in which they were given.

    Args:
        models: Model files, globs, folders (all .onnx files below), and lists: .txt files with
            one of the former a line, relative to the list; lines that begin with # are skipped.
        options: How many networks the generator adds.

    Raises:
        OptionError: Something is not there or holds no models, or nothing is given at all.
    """
    try:
        found = [path for model in models for path in _expand(os.fspath(model))]
    except OSError as error:
        raise OptionError(f"{error.filename}: {error.strerror}") from error
    by_path: dict[str, str] = {}
    for path in found:
        by_path.setdefault(os.path.abspath(path), path)  # noqa: PTH100 (links stay)
    files = [Candidate(path, full) for full, path in by_path.items()]
    names = [*files, *_sampled(options)]
    if not names:
        raise OptionError("nothing to rank: give model files, folders or lists, or --sample N")
    return names


def _sampled(options: RankOptions) -> Iterator[Candidate]:
    if options.sample:
        from onnx_ghn.architectures.spaces import space_named

        space_named(options.space)
    first = options.seed * MOST_SAMPLED
    for seed in range(first, first + options.sample):
        yield Candidate(f"{options.space}/{seed}", space=options.space, seed=seed)


def _expand(model: str, *, lists: bool = True) -> list[str]:
    """The model files that one argument stands for, or one line of a list, which holds no lists."""
    path = Path(model)
    if path.is_dir():
        files = sorted(path.glob(f"**/*{MODEL_SUFFIX}"))
        if not files:
            raise OptionError(f"{model}: a folder without {MODEL_SUFFIX} files")
        return [str(file) for file in files]
    if lists and path.suffix == LIST_SUFFIX and path.is_file():
        return _listed(path)
    if path.exists():
        return [model]
    matches = sorted(glob.glob(model, recursive=True))  # noqa: PTH207 (takes absolute patterns)
    if not matches:
        raise OptionError(f"{model}: no such file, folder or list of models, nor a match")
    return [file for match in matches for file in _expand(match, lists=lists)]


def _listed(path: Path) -> list[str]:
    try:
        lines = [line.strip() for line in read_small(path).decode("utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{path}: can't be read as a list of models: {error}") from error
    entries = [str(path.parent / line) for line in lines if line and not line.startswith("#")]
    if not entries:
        raise OptionError(f"{path}: lists no models")
    if any("\0" in entry or len(entry) > MAX_PATH for entry in entries):
        raise OptionError(f"{path}: has a line that can't be a path: is it a list of models?")
    files = []
    for entry in entries:
        try:
            files += _expand(entry, lists=False)
        except (OptionError, OSError):
            files.append(entry)  # of a long list one missing model must not stop the others
    return files
