"""Labelled images: from a folder, an `.npz` file or a Python iterable, to arrays in memory.

- A folder holds one subfolder for each class (`class/xxx.jpg`); classes are numbered in the order
  of their names. Images are decoded once and kept as uint8 in a cache.
- An `.npz` file holds `x`, uint8 [N, H, W, C] or float32 as the model takes it, and `y`, int [N].
- An iterable, or a function that gives one, gives (x, y), one example or one batch at a time.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import stat
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_ghn.errors import MissingDependencyError, OnnxGhnError
from onnx_ghn.model_io.atomic import AtomicFile, exclusive
from onnx_ghn.resizing import Resize

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".tif", ".tiff"})
CACHE_VARIABLE = "ONNX_GHN_CACHE"
"""Environment variable that names the folder of decoded images; ~/.cache/onnx-ghn if unset."""

MAX_EXPANDED_BYTES = 256 << 20
MAX_COMPRESSION = 16
"""Arrays that take more than so many bytes are read if their file has a 16th of them at least."""

MAX_CLASSES = 1 << 20
"""A larger class number is taken for damage or an attack."""

Labels = npt.NDArray[np.int64]
Examples = Iterable[tuple[Any, Any]]
Source = str | os.PathLike[str] | Examples | Callable[[], Examples]


class DataError(OnnxGhnError):
    """The labelled data can't be read or makes no sense. Names the file and the remedy."""


@dataclass(frozen=True, eq=False)
class Data:
    """Labelled examples.

    Attributes:
        x: uint8 [N, H, W, C] images, or float32 [N, ...] in the form that the model takes.
        y: int64 [N], class numbers from 0.
        classes: Class names; their numbers where they have no names.
        source: Where it comes from, for messages.
        resize: How the images were brought to their size; None where it is their own.
    """

    x: npt.NDArray[Any]
    y: Labels
    classes: tuple[str, ...]
    source: str
    resize: Resize | None = None

    def __len__(self) -> int:
        return len(self.y)

    @property
    def is_image(self) -> bool:
        """Whether `x` holds raw uint8 images, which need normalising."""
        return self.x.dtype == np.uint8

    def take(self, indices: Labels) -> Data:
        """The examples at `indices`, in that order."""
        return dataclasses.replace(self, x=self.x[indices], y=self.y[indices])

    def limited(self, count: int) -> Data:
        """`count` of the examples, spread evenly; all where that is 0 or there are no more."""
        return self.take(_spread(len(self), count)) if 0 < count < len(self) else self

    def split(self, share: float = 0.1) -> tuple[Data, Data]:
        """Hold out the last `share` of each class, in the order of the examples.

        Returns:
            The rest, and what is held out: at least one example of each class that has two.
        """
        held = np.zeros(len(self), bool)
        for label in range(len(self.classes)):
            mine = np.flatnonzero(self.y == label)
            count = max(1, round(len(mine) * share)) if len(mine) > 1 and share > 0 else 0
            held[mine[len(mine) - count :]] = True
        return self.take(np.flatnonzero(~held)), self.take(np.flatnonzero(held))

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel of uint8 images, of values in [0, 1]."""
        sums, squares, count = 0.0, 0.0, 0
        for start in range(0, len(self), 4096):  # all at once would take eight times the memory
            block = self.x[start : start + 4096].astype(np.float64) / 255
            sums = sums + block.sum((0, 1, 2))
            squares = squares + np.square(block).sum((0, 1, 2))
            count += block[..., 0].size
        mean = np.asarray(sums) / count
        deviation = np.sqrt(np.maximum(np.asarray(squares) / count - mean**2, 1e-12))
        return tuple(mean.round(4).tolist()), tuple(deviation.round(4).tolist())

    def batches(
        self, size: int, *, mean: tuple[float, ...] = (), std: tuple[float, ...] = ()
    ) -> Iterator[tuple[npt.NDArray[np.float32], Labels]]:
        """Batches in order, as float32 [n, C, H, W]; the last one may be smaller.

        Args:
            size: Examples of a batch.
            mean: Per channel, subtracted from uint8 images in [0, 1].
            std: Per channel, divides them afterwards.
        """
        for start in range(0, len(self), size):
            x = self.x[start : start + size]
            if self.is_image:
                x = normalised(x, mean, std)
            yield x.astype(np.float32, copy=False), self.y[start : start + size]


def normalised(
    images: npt.NDArray[np.uint8], mean: tuple[float, ...] = (), std: tuple[float, ...] = ()
) -> npt.NDArray[np.float32]:
    """uint8 [N, H, W, C] to float32 [N, C, H, W]: scaled to [0, 1], less `mean`, over `std`."""
    x = images.astype(np.float32) / 255
    if mean:
        x = x - np.array(mean, np.float32)
    if std:
        x = x / np.array(std, np.float32)
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def load_data(source: Source, *, resize: Resize | None = None, limit: int = 0) -> Data:
    """Read labelled data.

    Args:
        source: A folder, an `.npz` file, an iterable of (x, y), or a function that gives one.
        resize: What is done with the images of a folder; None keeps their size, which must then
            be the same for all.
        limit: Take so many examples, spread evenly over the data; 0: all. Of a folder no other
            images are decoded.

    Raises:
        DataError: There is nothing there, or it is malformed.
        MissingDependencyError: Pillow, which decodes images, isn't installed.
    """
    if callable(source) and not isinstance(source, Iterable):
        source = source()
    if not isinstance(source, (str, os.PathLike)):
        return _from_iterable(source).limited(limit)
    path = Path(source)
    if path.is_dir():
        return _from_folder(path, resize, limit)
    if not path.exists():
        raise DataError(f"{path}: no such file or folder of labelled data")
    return _from_npz(path).limited(limit)


def _spread(count: int, chosen: int) -> Labels:
    """`chosen` of the numbers below `count`, in order and as evenly as can be."""
    return np.linspace(0, count - 1, chosen).round().astype(np.int64)


def _from_npz(path: Path) -> Data:
    if not path.is_file():
        raise DataError(f"{path}: is no regular file")  # a pipe or a device never ends
    if not zipfile.is_zipfile(path):  # NumPy would take it for a pickle, and advise to load that
        raise DataError(f"{path}: is not an .npz file; save it with numpy.savez(x=…, y=…)")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            if "x" not in arrays or "y" not in arrays:
                found = ", ".join(arrays.files) or "none"
                raise DataError(f"{path}: needs the arrays 'x' and 'y', found {found}")
            _check_expansion(path, arrays.zip.infolist())
            x, y = arrays["x"], arrays["y"]
    except (*_UNREADABLE, zipfile.BadZipFile, zlib.error, tokenize.TokenError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path}: can't be read as an .npz file: {reason}") from error
    except (TypeError, AttributeError) as error:  # a plain .npy gives an array, not an archive
        raise DataError(
            f"{path}: is not an .npz file; save it with numpy.savez(x=…, y=…)"
        ) from error
    return _checked(x, y, str(path))


def _check_expansion(path: Path, entries: Iterable[zipfile.ZipInfo]) -> None:
    """Refuse a small file of huge arrays; no entry can hold more than it declares.

    Raises:
        DataError: The arrays take more than such a file may expand to.
    """
    expanded = sum(entry.file_size for entry in entries)
    if expanded > max(MAX_EXPANDED_BYTES, MAX_COMPRESSION * path.stat().st_size):
        raise DataError(
            f"{path}: expands to {expanded / 1e6:,.0f} MB, {MAX_COMPRESSION} times its size and "
            "more, as an attack would: if you trust it, save it uncompressed, with numpy.savez"
        )


_UNREADABLE = (OSError, ValueError, EOFError, MemoryError, OverflowError, SyntaxError)
"""What NumPy raises on a damaged file; MemoryError where a header claims a huge array."""


def _from_iterable(source: Examples) -> Data:
    xs, ys = [], []
    name = "the iterable of data"
    try:
        items = iter(source)
    except TypeError as error:
        raise DataError(f"data must be a path or an iterable, not {type(source)}") from error
    for item in items:
        try:
            x, y = item
        except (TypeError, ValueError) as error:
            raise DataError(f"{name}: each item must be a pair (x, y)") from error
        x, y = np.asarray(x), np.asarray(y)
        if y.ndim == 0:
            x, y = x[None], y[None]
        xs.append(x)
        ys.append(y)
    if not xs:
        raise DataError(f"{name} is empty")
    try:
        return _checked(np.concatenate(xs), np.concatenate(ys), name)
    except ValueError as error:
        raise DataError(f"{name}: its items differ in shape: {error}") from error


def _checked(x: npt.NDArray[Any], y: npt.NDArray[Any], source: str) -> Data:
    if x.dtype in (np.float64, np.float16):
        x = x.astype(np.float32)
    if x.dtype not in (np.uint8, np.float32):
        raise DataError(f"{source}: x must be uint8 or float32, it is {x.dtype}")
    if x.dtype == np.uint8 and (x.ndim != 4 or x.shape[3] not in (1, 3, 4)):
        raise DataError(f"{source}: uint8 images must have the shape [N, H, W, C], not {x.shape}")
    if not np.issubdtype(y.dtype, np.integer) or y.ndim != 1:
        raise DataError(f"{source}: y must be integers of shape [N], it is {y.dtype} {y.shape}")
    if len(x) != len(y) or not len(y):
        raise DataError(f"{source}: {len(x)} examples and {len(y)} labels")
    if not x.size:
        raise DataError(f"{source}: x of shape {x.shape} holds nothing")
    if y.min() < 0:
        raise DataError(f"{source}: y has negative class numbers")
    if y.max() >= MAX_CLASSES:
        raise DataError(f"{source}: y has the class number {y.max()}; {MAX_CLASSES - 1} is allowed")
    classes = tuple(str(label) for label in range(int(y.max()) + 1))
    return Data(x, y.astype(np.int64), classes, source)


def _from_folder(root: Path, resize: Resize | None, limit: int) -> Data:
    folders = sorted(entry for entry in root.iterdir() if entry.is_dir())
    files: list[Path] = []
    labels: list[int] = []
    for label, folder in enumerate(folders):
        mine = sorted(file for file in folder.iterdir() if file.suffix.lower() in SUFFIXES)
        if not mine:
            nested = any(entry.is_dir() for entry in folder.iterdir())
            hint = f"; is the data in {folder}?" if nested else ""
            raise DataError(
                f"{folder}: a class folder without images (expected {root}/class/xxx.jpg){hint}"
            )
        files += mine
        labels += [label] * len(mine)
    if not files:
        raise DataError(f"{root}: no class folders with images (expected {root}/class/xxx.jpg)")
    if 0 < limit < len(files):
        chosen = _spread(len(files), limit).tolist()
        files, labels = [files[i] for i in chosen], [labels[i] for i in chosen]
    cache = _cache_file(root, files, resize)
    if not cache.exists():
        with exclusive(root):  # of many workers one decodes, and the others wait for it
            if not cache.exists():
                _decode(files, cache, resize)
    try:
        x = np.load(cache, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise DataError(f"{cache}: the cache of decoded images is damaged; delete it") from error
    names = tuple(folder.name for folder in folders)
    return Data(x, np.array(labels, np.int64), names, str(root), resize)


def _cache_file(root: Path, files: list[Path], resize: Resize | None) -> Path:
    """Where the decoded images of these very files are kept."""
    digest = hashlib.sha256(f"{resize}".encode())
    for file in files:
        try:
            status = file.stat()
        except OSError as error:
            raise DataError(f"{file}: can't be read: {error.strerror}") from error
        if not stat.S_ISREG(status.st_mode):
            raise DataError(f"{file}: is no regular file")
        line = f"{file.relative_to(root)}\0{status.st_size}\0{status.st_mtime_ns}\n"
        digest.update(line.encode("utf-8", "surrogateescape"))
    folder = os.environ.get(CACHE_VARIABLE)
    base = Path(folder) if folder else Path.home() / ".cache" / "onnx-ghn"
    return base / f"images-{digest.hexdigest()[:32]}.npy"


def _decode(files: list[Path], cache: Path, resize: Resize | None) -> None:
    """Decode all files into one uint8 array, written to `cache` in one piece or not at all."""
    first = _image(files[0], resize)
    header = {
        "descr": np.lib.format.dtype_to_descr(first.dtype),
        "fortran_order": False,
        "shape": (len(files), *first.shape),
    }
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        with AtomicFile(cache.parent) as output:
            np.lib.format.write_array_header_1_0(output.file, header)
            for file in files:
                image = _image(file, resize)
                if image.shape != first.shape:
                    raise DataError(
                        f"{file}: {image.shape[1]} x {image.shape[0]} pixels where {files[0]} has "
                        f"{first.shape[1]} x {first.shape[0]}: give a side to resize to (--side)"
                    )
                output.file.write(image.tobytes())
            output.sync()  # whoever finds the name maps the whole file
            output.publish(cache, overwrite=True)
    except OSError as error:
        raise DataError(
            f"{cache}: decoded images can't be kept there: {error}; set {CACHE_VARIABLE}"
        ) from error


def _image(file: Path, resize: Resize | None) -> npt.NDArray[np.uint8]:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingDependencyError(
            "reading images needs Pillow: pip install 'onnx-ghn[train]'"
        ) from error
    try:
        with Image.open(file) as opened:
            image = opened.convert("RGB")
    except Exception as error:  # decoders of damaged files raise anything
        raise DataError(f"{file}: can't be decoded as an image: {error}") from error
    return np.asarray(image if resize is None else resize.image(image))
