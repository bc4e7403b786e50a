"""Hypernetwork archives: how they are written, checked and loaded.

An archive is a few files with one stem: `NAME.safetensors` and `NAME.json`, the source of truth;
`NAME.pt`, TorchScript made from them with the JSON inside, which is what is loaded; and ONNX models
that read their weights from the safetensors, for use without torch. `SHA256SUMS` beside them holds
their hashes. TorchScript is code: load only what you trust.

Weights are float32 or, to halve the files, float16; once loaded they are float32 in any case.

The only module that touches `torch.jit`.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import tempfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from onnx_ghn.errors import ArchiveError, OptionError
from onnx_ghn.hypernet.config import ArchiveConfig
from onnx_ghn.hypernet.engines import Engine, TorchEngine
from onnx_ghn.model_io.regular import MAX_BYTES, check_regular, read_small
from onnx_ghn.options import ENGINES

if TYPE_CHECKING:
    from torch import nn

SHIPPED = Path(__file__).parent / "weights" / "hypernet.pt"
"""The archive that is used where none is asked for; its name is in its description."""

Weights = Mapping[str, npt.NDArray[Any]]
"""Float32 or float16 weights, and integer buffers, by their names in `state_dict()`."""

SUMS = "SHA256SUMS"
CONFIG_FILE = "onnx_ghn.json"
METHODS = (
    "encode",
    "decode_weight",
    "decode_class_weight",
    "decode_vector",
    "decode_class_bias",
)


@dataclass(frozen=True)
class ArchiveInfo:
    """An archive's description, read without torch.

    Attributes:
        path: The TorchScript file.
        config: What it says of itself.
        sha256: Hash of the TorchScript file, hexadecimal.
    """

    path: Path
    config: ArchiveConfig
    sha256: str

    @property
    def name(self) -> str:
        """Short name."""
        return self.config.name

    @property
    def trained(self) -> bool:
        """Whether the weights come from training."""
        return self.config.trained


@dataclass(frozen=True)
class Archive:
    """A loaded archive: its description and the engine that runs it."""

    info: ArchiveInfo
    engine: Engine


_UNREADABLE = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What zipfile raises on a damaged file; RuntimeError where it is encrypted, say."""


def read_info(path: str | os.PathLike[str] | None = None) -> ArchiveInfo:
    """Read an archive's description and check its hash; no code of it runs.

    Args:
        path: The `.pt` file; the archive that ships where None.

    Raises:
        ArchiveError: The file is missing, damaged, not an archive, or too new.
    """
    file = SHIPPED if path is None else Path(path)
    try:
        check_regular(file)
        with zipfile.ZipFile(file) as archive:
            inner = [n for n in archive.namelist() if n.endswith(f"/extra/{CONFIG_FILE}")]
            if inner and archive.getinfo(inner[0]).file_size > MAX_BYTES:
                raise ValueError("its description is far too long")
            text = archive.read(inner[0]).decode() if inner else None
    except FileNotFoundError as error:
        raise ArchiveError(f"{file}: no such hypernetwork archive") from error
    except _UNREADABLE as error:
        raise ArchiveError(
            f"{file}: not a hypernetwork archive, or a damaged one ({error}); "
            "a published checkpoint must be converted first (onnx-ghn convert)"
        ) from error
    if text is None:
        raise ArchiveError(
            f"{file}: not a hypernetwork archive; a published checkpoint must be converted first "
            "(onnx-ghn convert)"
        )
    digest = _sha256(file)
    _check(file, digest, required=path is None)
    return ArchiveInfo(file, ArchiveConfig.from_json(text, str(file)), digest)


def load_archive(
    path: str | os.PathLike[str] | None = None,
    *,
    engine: str = "torch",
    threads: int = 1,
    device: str = "cpu",
) -> Archive:
    """Load an archive, after its hash is checked.

    Args:
        path: The `.pt` file; the archive that ships where None. It is code: load what you trust.
        engine: What runs it, one of `ENGINES`.
        threads: Compute threads. More than one gives up that any machine gives the same bits.
        device: Where the torch engine computes.

    Raises:
        ArchiveError: The file is missing, damaged, not an archive, or too new.
        OptionError: There is no such engine, or torch doesn't find the device.
    """
    if engine not in ENGINES:
        raise OptionError(f"unknown engine {engine!r}: choose one of {', '.join(ENGINES)}")
    info = read_info(path)
    if engine == "onnxruntime":
        return Archive(info, _onnx_engine(info, threads, required=path is None))
    import torch

    from onnx_ghn.torch_device import check_device

    check_device(device)
    try:
        with _jit():
            module = torch.jit.load(str(info.path), map_location=device).float()
    except (RuntimeError, ValueError) as error:
        raise ArchiveError(f"{info.path}: the hypernetwork archive is damaged") from error
    return Archive(info, TorchEngine(module, threads, _unoptimised, device))


def _onnx_engine(info: ArchiveInfo, threads: int, *, required: bool) -> Engine:
    """Check the files that the ONNX Runtime engine reads, and open it."""
    from onnx_ghn.hypernet.onnx_engine import GRAPHS, graph_file, open_engine

    for file in (
        info.path.with_suffix(".safetensors"),
        *(graph_file(info.path, name) for name in GRAPHS),
    ):
        try:
            _check(file, _sha256(file), required=required)
        except OSError as error:
            raise ArchiveError(
                f"{file}: the archive lacks this file: write it again, or use the torch engine"
            ) from error
    return open_engine(info.path, info.config.network, threads)


def load_network(path: str | os.PathLike[str]) -> tuple[nn.Module, ArchiveConfig]:
    """Load the trainable network of an archive, from its safetensors and JSON; runs no code of it.

    Args:
        path: Any of the archive's files.

    Raises:
        ArchiveError: The files are missing or damaged, or don't belong together.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    weights, description = Path(path).with_suffix(".safetensors"), Path(path).with_suffix(".json")
    try:
        config = ArchiveConfig.from_json(description.read_text(), str(description))
        state = load_file(weights)
    except (OSError, SafetensorError) as error:
        raise ArchiveError(f"{weights}: can't be read: {error}") from error
    return _network(config, state, str(weights)).float(), config


def read_weights(path: str | os.PathLike[str]) -> dict[str, npt.NDArray[Any]]:
    """The weights of an archive as its safetensors holds them; runs no code of it, needs no torch.

    Args:
        path: Any of the archive's files.

    Raises:
        ArchiveError: The file is missing or damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    file = Path(path).with_suffix(".safetensors")
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise ArchiveError(f"{file}: can't be read: {error}") from error


def write_archive(
    path: str | os.PathLike[str], config: ArchiveConfig, state: Weights
) -> ArchiveInfo:
    """Write the files of an archive, and their hashes into `SHA256SUMS` beside them.

    The bytes depend on the arguments and the version of torch alone, not on the path.

    Args:
        path: Where the TorchScript file goes; the others take its stem.
        config: The configuration.
        state: The weights, written in the type that they have.

    Raises:
        ArchiveError: The weights don't fit the configuration, or a file can't be written.
    """
    import onnx
    import torch
    from safetensors.numpy import save_file
    from safetensors.torch import load_file

    from onnx_ghn.hypernet.onnx_engine import graph_file
    from onnx_ghn.hypernet.onnx_graphs import build_graphs

    target = Path(path)
    text = config.to_json()
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made = Path(folder) / target.name
            weights = made.with_suffix(".safetensors")
            save_file({k: np.ascontiguousarray(v) for k, v in state.items()}, weights)
            weights.chmod(0o644)  # safetensors makes it readable to its owner only
            made.with_suffix(".json").write_text(text)
            network = _network(config, load_file(weights), str(target))
            raw = Path(folder) / "raw"
            with _jit():
                for method in METHODS:
                    torch.jit.export(getattr(type(network), method))
                scripted = torch.jit.script(network)
                torch.jit.save(scripted, str(raw), _extra_files={CONFIG_FILE: text})
            _repack(raw, made)
            raw.unlink()
            for name, model in build_graphs(config.network, weights).items():
                onnx.save(model, graph_file(made, name))
            sums = {file.name: _sha256(file) for file in sorted(made.parent.iterdir())}
            for name in sums:
                (made.parent / name).replace(target.parent / name)
        _record(target.parent, sums)
    except OSError as error:
        raise ArchiveError(f"{target}: can't be written: {error}") from error
    return read_info(target)


def _network(config: ArchiveConfig, state: Mapping[str, Any], source: str) -> nn.Module:
    """Build the network around the given tensors, without initialising any of its own."""
    import torch

    from onnx_ghn.hypernet.model import build_network

    with torch.device("meta"):
        network = build_network(config.network)
    try:
        network.load_state_dict(dict(state), strict=True, assign=True)
    except RuntimeError as error:
        detail = " ".join(str(error).split())
        raise ArchiveError(f"{source}: weights don't fit the configuration: {detail}") from error
    return network.eval()


@contextlib.contextmanager
def _jit() -> Iterator[None]:
    """TorchScript is this format's choice; its deprecation notices are no news to the user."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=DeprecationWarning)
        yield


@contextlib.contextmanager
def _unoptimised() -> Iterator[None]:
    """Run without profiling and fusion: they slow the first calls, and most archives get one."""
    import torch

    with torch.jit.optimized_execution(False):
        yield


def _repack(source: Path, target: Path) -> None:
    """Copy a TorchScript file so that equal contents give equal bytes.

    Left out are debug records, which hold paths of this machine, and an identifier made of all
    records. Order and times are fixed.
    """
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as new:
        for name in sorted(old.namelist()):
            if name.endswith((".debug_pkl", "/serialization_id")):
                continue
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            if name.endswith(".py"):
                new.writestr(entry, _sort_constants(old.read(name).decode()))
                continue
            entry.file_size = old.getinfo(name).file_size  # large ones need the 64-bit header
            with old.open(name) as reader, new.open(entry, "w") as writer:
                while block := reader.read(1 << 22):
                    writer.write(block)


def _sort_constants(code: str) -> str:
    """Sort runs of constants in compiled classes: torch writes them in the order of a set."""
    runs = itertools.groupby(code.splitlines(keepends=True), lambda line: " : Final[" in line)
    return "".join("".join(sorted(run) if constant else run) for constant, run in runs)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read_sums(folder: Path) -> dict[str, str]:
    """Hash by file name."""
    try:
        lines = read_small(folder / SUMS).decode().splitlines()
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ArchiveError(f"{folder / SUMS}: no list of hashes: {error}") from error
    pairs = [line.split(maxsplit=1) for line in lines if line.strip()]
    return {pair[1].lstrip("*"): pair[0] for pair in pairs if len(pair) == 2}


def _check(file: Path, digest: str, *, required: bool) -> None:
    """Compare a file's hash with the one beside it."""
    expected = _read_sums(file.parent).get(file.name)
    if expected is None and required:
        raise ArchiveError(f"{file}: its hash is missing from {SUMS}; reinstall onnx-ghn")
    if expected is not None and expected != digest:
        raise ArchiveError(
            f"{file}: its sha256 isn't the one in {SUMS} beside it: the file is damaged or was "
            "replaced"
        )


def _record(folder: Path, sums: dict[str, str]) -> None:
    """Add hashes to those that the folder has."""
    merged = _read_sums(folder) | sums
    text = "".join(f"{digest}  {name}\n" for name, digest in sorted(merged.items()))
    (folder / SUMS).write_text(text)
