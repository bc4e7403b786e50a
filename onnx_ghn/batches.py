"""Labelled data as batches in the form that a model takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnx_ghn.data import Data, DataError, Labels, Source, load_data
from onnx_ghn.errors import OptionError
from onnx_ghn.input_form import InputForm, input_form
from onnx_ghn.options import InitializeOptions, RunOptions
from onnx_ghn.random_stream import RandomStream
from onnx_ghn.report import Report, Status
from onnx_ghn.resizing import Resize

if TYPE_CHECKING:
    from onnx_ghn.hypernet.config import ArchiveConfig

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in a grey value (ITU-R BT.601)."""

FEW = 8
"""A batch of fewer examples has statistics of its own."""

METADATA = "onnx_ghn_input."
"""Start of the metadata keys that say how images are normalised. No provenance: unlike where
weights come from, it stays true when they are initialised or trained anew."""

Feeds = dict[str, npt.NDArray[Any]]
Progress = Callable[[int, int], None]
"""Called with the examples that are done and all of them."""


@dataclass(frozen=True)
class Normalisation:
    """What happens to images in [0, 1].

    Attributes:
        mean: Subtracted; one number, one a channel, or none.
        std: Divides afterwards; likewise.
        source: Where the numbers come from, for people.
    """

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    source: str = "as none was given"

    @classmethod
    def of(cls, config: ArchiveConfig) -> Normalisation:
        """That of the images for which an archive predicts."""
        return cls(config.mean, config.std, f"as for the archive {config.name!r}")

    def fits(self, channels: int) -> bool:
        """Whether the numbers suit images of so many channels."""
        return all(len(numbers) in (0, 1, channels) for numbers in (self.mean, self.std))


def archive_normalisation(options: InitializeOptions, report: Report) -> Normalisation | None:
    """How images were normalised for the archive, where it predicted anything."""
    from onnx_ghn.hypernet.archive import read_info

    if not report.count(Status.PREDICTED):
        return None
    return Normalisation.of(read_info(options.hypernet).config)


def recorded_normalisation(model: ir.Model) -> Normalisation | None:
    """The normalisation with which the model was calibrated, if its metadata tells."""
    try:
        texts = [model.metadata_props[f"{METADATA}{key}"] for key in ("mean", "std")]
        mean, std = (tuple(float(part) for part in text.split(",") if part) for text in texts)
    except (KeyError, ValueError):
        return None
    return Normalisation(mean, std, "as the model was calibrated")


class Batches:
    """Labelled data, shuffled, batch by batch in a model's form. Can be iterated again and again.

    The order of the examples depends on the seed alone. It is shuffled because the batches of
    data that is sorted by class would have the statistics of single classes.

    Iterating gives what has to be fed; `labelled` gives the labels too.

    Attributes:
        data: The examples.
        form: What the model takes.
        size: Examples of a batch. The last batch of a model that takes any number may be smaller;
            that of another is filled up with the first examples.
        normalisation: What is done to images.
    """

    def __init__(
        self,
        data: Data,
        form: InputForm,
        options: RunOptions | None = None,
        *,
        seed: int = 0,
        normalisation: Normalisation | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Check that the data suits the model.

        Args:
            data: The examples; all are used.
            form: What the model takes.
            options: Size of batches and images, normalisation.
            seed: Seed of the order.
            normalisation: Used where the options name none and it suits the images.
            progress: Called after each batch.

        Raises:
            DataError: The examples can't be brought into the form.
            OptionError: The options contradict the model or the data.
        """
        options = options or RunOptions()
        self.data = data
        self.form = form
        self.size = form.batch or options.batch_size
        self._progress = progress
        self._resize: Resize | None = None
        self._channels: int | None = None
        self.normalisation = Normalisation(source="the data is used as it is")
        if data.is_image:
            self._resize = _resize(data, form, options)
            self._channels = _channels(data, form)
            self.normalisation = _normalisation(form, options, normalisation, self._channels)
        else:
            _check_ready(data, form, options)
        if form.batch and options.batch_size not in (form.batch, RunOptions().batch_size):
            raise OptionError(
                f"the model takes batches of {form.batch}, not {options.batch_size}: export it "
                "with a dynamic batch axis, or leave the batch size out"
            )
        self._order = np.asarray(RandomStream(seed, "order of the examples").permutation(len(data)))

    @property
    def examples(self) -> int:
        """Number of examples that are used."""
        return len(self._order)

    def __iter__(self) -> Iterator[Feeds]:
        """What has to be fed, batch by batch."""
        return (feeds for feeds, _ in self.labelled())

    def labelled(self) -> Iterator[tuple[Feeds, Labels]]:
        """What has to be fed and the labels, which are fewer where a batch was filled up."""
        for start in range(0, self.examples, self.size):
            indices = self._order[start : start + self.size]
            labels = self.data.y[indices]
            if self.form.batch and len(indices) < self.size:
                indices = np.concatenate([indices, np.resize(self._order, self.size - len(labels))])
            yield {self.form.name: self.prepared(self.data.x[indices])}, labels
            if self._progress is not None:
                self._progress(start + len(labels), self.examples)

    def warnings_of_statistics(self) -> list[str]:
        """What the user should know where statistics are taken of each batch."""
        if self.form.batch is None or self.form.batch >= FEW:
            return []
        return [
            f"the model takes batches of {self.form.batch}: statistics of so few examples are "
            "poor; export it with a dynamic batch axis"
        ]

    def record_normalisation(self, model: ir.Model) -> None:
        """Write into the model's metadata how its images are to be normalised."""
        if self.data.is_image and self.form.dtype.kind == "f":
            for key, numbers in (
                ("mean", self.normalisation.mean),
                ("std", self.normalisation.std),
            ):
                model.metadata_props[f"{METADATA}{key}"] = ",".join(map(repr, numbers))

    def to_json(self) -> dict[str, Any]:
        """What was chosen: the entry under `input` in a report."""
        example = self.prepared(self.data.x[self._order[:1]]).shape[1:]
        return {
            "data": self.data.source,
            "examples": self.examples,
            "classes": len(self.data.classes),
            "name": self.form.name,
            "dtype": self.form.dtype.name,
            "layout": self.form.layout,
            "shape": list(example),
            "batch_size": self.size,
            "resize": None if self._resize is None else self._resize.how,
            "mean": list(self.normalisation.mean),
            "std": list(self.normalisation.std),
            "normalisation": self.normalisation.source,
        }

    def prepared(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Examples [n, ...] of the data, in the form that the model takes."""
        if self._channels is None:
            return np.ascontiguousarray(x, self.form.dtype)
        if self._resize is not None and self._resize != self.data.resize:
            x = self._resize.arrays(x)
        x = _with_channels(x, self._channels)
        if self.form.dtype.kind == "f":
            x = x.astype(np.float32) / 255
            if self.normalisation.mean:
                x = x - np.array(self.normalisation.mean, np.float32)
            if self.normalisation.std:
                x = x / np.array(self.normalisation.std, np.float32)
        if self.form.layout == "NCHW":
            x = x.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(x, self.form.dtype)


def make_batches(
    source: Source,
    model: ir.Model,
    options: RunOptions | None = None,
    *,
    seed: int = 0,
    normalisation: Normalisation | None = None,
    progress: Progress | None = None,
    read: Callable[..., Data] = load_data,
) -> Batches:
    """Read labelled data for a model.

    Args:
        source: As for `load_data`.
        model: The model that will run; weights are not looked at.
        options: Size of batches and images, normalisation, limit.
        seed: Seed of the order.
        normalisation: Used where neither the options nor the model's metadata name one.
        progress: Called after each batch.
        read: Reads the data, as `load_data` does: one that remembers serves many models.

    Raises:
        DataError: The data can't be read, or does not suit the model.
        ModelError: The model takes no labelled images.
        OptionError: The options contradict the model or the data.
    """
    options = options or RunOptions()
    form = input_form(model)
    data = read(source, resize=wanted_size(form, options), limit=options.limit)
    known = recorded_normalisation(model) or normalisation
    return Batches(data, form, options, seed=seed, normalisation=known, progress=progress)


def wanted_size(form: InputForm, options: RunOptions) -> Resize | None:
    """The size that images get; None where they keep their own."""
    rows, columns = (declared or options.side for declared in form.size)
    if not rows and not columns:
        return None
    return Resize(rows or columns, columns or rows, options.resize)


def _resize(data: Data, form: InputForm, options: RunOptions) -> Resize | None:
    """As `wanted_size`, after a check that the model takes images of this size."""
    if not form.layout:
        raise DataError(
            f"{data.source}: holds images, and input {form.name!r} of the model has "
            f"{len(form.shape)} axes: save x as float32 in the shape that the model takes"
        )
    if form.dtype.kind != "f" and form.dtype != np.uint8:
        raise DataError(f"{data.source}: input {form.name!r} takes {form.dtype}, which no image is")
    for size in form.size:
        if size is not None and options.side not in (0, size):
            raise OptionError(f"the model takes images of side {size}, not {options.side}")
    return wanted_size(form, options)


def _channels(data: Data, form: InputForm) -> int:
    """Channels to bring images to."""
    own = int(data.x.shape[3])
    channels = form.channels or own
    if channels != own and (own, channels) not in ((1, 3), (3, 1), (4, 3)):
        raise DataError(
            f"{data.source}: images of {own} channels, and input {form.name!r} of the model "
            f"takes {channels}"
        )
    return channels


def _normalisation(
    form: InputForm, options: RunOptions, known: Normalisation | None, channels: int
) -> Normalisation:
    if form.dtype.kind != "f":
        if options.mean or options.std:
            raise OptionError(f"input {form.name!r} takes bytes: mean and std have no place")
        return Normalisation(source="the model takes bytes")
    if options.mean or options.std:
        chosen = Normalisation(options.mean, options.std, "as asked for")
        if not chosen.fits(channels):
            raise OptionError(
                f"mean and std need one number, or one for each of {channels} channels"
            )
        return chosen
    return known if known is not None and known.fits(channels) else Normalisation()


def _check_ready(data: Data, form: InputForm, options: RunOptions) -> None:
    """Check that float data has the shape that the model takes."""
    if options.mean or options.std or options.side or options.resize != RunOptions().resize:
        raise OptionError(
            f"{data.source}: x is float32, which is used as it is: mean, std, side and resize are "
            "for uint8 images"
        )
    given = data.x.shape[1:]
    wanted = form.shape[1:]
    fits = len(given) == len(wanted) and all(
        size in (None, own) for size, own in zip(wanted, given, strict=True)
    )
    if not fits or form.dtype.kind != "f":
        declared = " x ".join("any" if size is None else str(size) for size in wanted)
        raise DataError(
            f"{data.source}: x is float32 of shape {' x '.join(map(str, given))} an example, and "
            f"input {form.name!r} of the model takes {form.dtype} of {declared}"
        )


def _with_channels(x: npt.NDArray[Any], channels: int) -> npt.NDArray[Any]:
    """uint8 [n, H, W, C] with another number of channels."""
    own = x.shape[3]
    if own == channels:
        return x
    if own == 1:
        return np.repeat(x, channels, axis=3)
    if channels == 1:
        grey = (x[..., :3] @ np.array(LUMA)).round().astype(np.uint8)
        return np.asarray(grey[..., None])
    return np.asarray(x[..., :channels])  # without the alpha channel
