"""Batches for training: each depends on the seed and its number alone."""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_ghn.batches import Batches
from onnx_ghn.data import DataError, Labels
from onnx_ghn.errors import OptionError
from onnx_ghn.random_stream import RandomStream

Batch = tuple[npt.NDArray[Any], Labels]


class Feed:
    """The examples in random order, epoch after epoch, augmented.

    What is left of an epoch and does not fill a batch is left out: which examples that are
    changes with the epoch.

    Attributes:
        size: Examples of a batch, of all processes together.
        steps_per_epoch: Batches of an epoch.
    """

    def __init__(
        self,
        batches: Batches,
        *,
        seed: int = 0,
        crop: int = 0,
        flip: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Check that the data can be fed so.

        Args:
            batches: The examples, and the form in which the model takes them.
            seed: Seed of the order and of the augmentation.
            crop: Pixels by which images are shifted at most.
            flip: Whether half of the images are mirrored.
            rank: This process's number.
            world: Processes that share each batch.

        Raises:
            OptionError: A batch can't be shared evenly.
            DataError: What is to be augmented are no images.
        """
        self._batches, self._seed = batches, seed
        self._crop, self._flip = crop, flip
        self._rank, self._world = rank, world
        self.size = batches.size * (world if batches.form.batch else 1)
        if self.size % world:
            raise OptionError(f"batches of {self.size} can't be shared by {world} processes")
        if (crop or flip) and not batches.data.is_image:
            raise DataError(
                f"{batches.data.source}: --crop and --flip are for uint8 images [N, H, W, C]"
            )
        self._count = len(batches.data)
        if not batches.form.batch and self._count < self.size:
            self.size = max(world, self._count - self._count % world)
        self.steps_per_epoch = max(1, self._count // self.size)
        self._epoch = -1
        self._order: npt.NDArray[np.int64] = np.empty(0, np.int64)

    def batch(self, step: int) -> Batch:
        """This process's part of batch `step`, in the form that the model takes, and labels."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            stream = RandomStream(self._seed, f"training epoch {epoch}")
            order = stream.permutation(self._count)
            # A model of fixed batch may take more than there is.
            self._order, self._epoch = np.resize(order, max(self._count, self.size)), epoch
        share = self.size // self._world
        mine = slice(self._rank * share, (self._rank + 1) * share)
        indices = self._order[place * self.size : (place + 1) * self.size][mine]
        x = self._batches.data.x[indices]
        if self._crop or self._flip:
            x = self._augmented(x, step, mine)
        return self._batches.prepared(x), self._batches.data.y[indices]

    def after(self, step: int) -> Generator[Batch, None, None]:
        """The batches from number `step` on, without end; the next is prepared meanwhile."""
        with ThreadPoolExecutor(1) as pool:
            upcoming = pool.submit(self.batch, step)
            while True:
                current = upcoming.result()
                step += 1
                upcoming = pool.submit(self.batch, step)
                yield current

    def _augmented(self, x: npt.NDArray[np.uint8], step: int, mine: slice) -> npt.NDArray[np.uint8]:
        """Shifted and mirrored uint8 [n, H, W, C]."""
        # Drawn for the whole batch: an image is treated alike however many processes share it.
        draws = RandomStream(self._seed, f"augmentation {step}").uniform(3 * self.size)
        down, right, mirror = (row[mine, None] for row in draws.reshape(3, -1))
        height, width = x.shape[1:3]
        rows = np.arange(height) + self._shifts(down)
        columns = np.arange(width) + self._shifts(right)
        if self._flip:
            columns = np.where(mirror < 0.5, columns[:, ::-1], columns)
        rows, columns = rows.clip(0, height - 1), columns.clip(0, width - 1)
        return x[np.arange(len(x))[:, None, None], rows[:, :, None], columns[:, None, :]]

    def _shifts(self, draws: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
        return np.floor(draws * (2 * self._crop + 1)).astype(np.int64) - self._crop
