"""Batches of training images: random crop and flip, normalised, at the side that is asked for."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from onnx_ghn.data import Data, DataError

PADDING = 8
"""An image is shifted by at most 1/8 of its side."""


class Images:
    """Square uint8 images in memory, given out as normalised float batches.

    Args:
        data: Images with their labels.
        mean, std: Normalisation, per channel, of values in [0, 1].
        device: Where batches are made.

    Raises:
        DataError: The data are no square RGB images.
    """

    def __init__(
        self,
        data: Data,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: str | torch.device = "cpu",
    ) -> None:
        if not data.is_image or data.x.shape[1] != data.x.shape[2] or data.x.shape[3] != 3:
            raise DataError(
                f"{data.source}: training needs square uint8 RGB images, got "
                f"{data.x.dtype} {data.x.shape}"
            )
        # A pixel is one int32 of its channels and a filler: gathering those is three times as fast.
        packed = np.zeros((*data.x.shape[:3], 4), np.uint8)
        packed[..., :3] = data.x
        self._x = torch.from_numpy(packed.view(np.int32)[..., 0]).to(device)
        self._y = torch.tensor(data.y, device=device)
        self._mean = torch.tensor(mean, device=device).view(1, 3, 1, 1) * 255
        self._factor = 1 / (torch.tensor(std, device=device).view(1, 3, 1, 1) * 255)
        self.side = data.x.shape[1]

    def __len__(self) -> int:
        return len(self._y)

    def random(self, generator: torch.Generator, size: int, side: int) -> tuple[Tensor, Tensor]:
        """A random batch, augmented.

        Args:
            generator: A CPU generator: the batch depends on its state alone.
            size: Images, drawn with replacement.
            side: Rows and columns of the result; a smaller one averages pixels.

        Returns:
            Images float32 [size, 3, side, side] and labels int64 [size].
        """
        pad = self.side // PADDING
        chosen = torch.randint(len(self), (size,), generator=generator)
        shift = torch.randint(-pad, pad + 1, (2, size, 1), generator=generator)
        flip = torch.rand((size, 1), generator=generator) < 0.5
        line = torch.arange(self.side).expand(size, -1)
        rows = (line + shift[0]).clamp(0, self.side - 1)
        columns = (torch.where(flip, line.flip(1), line) + shift[1]).clamp(0, self.side - 1)
        # Only the small tensors travel to the device.
        at = (chosen * self.side * self.side).to(self._x.device)
        starts = at[:, None] + rows.to(self._x.device) * self.side
        index = starts[:, :, None] + columns.to(self._x.device)[:, None, :]
        pixels = self._x.view(-1).index_select(0, index.view(-1)).view(index.shape)
        return self._prepared(pixels, side), self._y[chosen.to(self._y.device)]

    def batch(self, start: int, size: int, side: int) -> tuple[Tensor, Tensor]:
        """Images `start` to `start + size` as they are; shapes as in `random`."""
        pixels = self._x[start : start + size]
        return self._prepared(pixels, side), self._y[start : start + size]

    def _prepared(self, pixels: Tensor, side: int) -> Tensor:
        """Packed pixels [size, side, side] -> normalised images, scaled down first: less work."""
        channels = pixels.view(torch.uint8).view(*pixels.shape, 4).float()
        x = channels.permute(0, 3, 1, 2)
        step, rest = divmod(self.side, side)
        if rest:
            x = F.interpolate(x, size=(side, side), mode="bilinear", antialias=True)
        elif step > 1:
            # Sums of slices take less than half the time of a pooling of channels-last images.
            x = sum((x[:, :, i::step] for i in range(1, step)), x[:, :, ::step])
            x = sum((x[..., i::step] for i in range(1, step)), x[..., ::step]) / step**2
        return (x[:, :3] - self._mean) * self._factor
