"""How images come to the size that a model takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from onnx_ghn.errors import MissingDependencyError

if TYPE_CHECKING:
    from PIL.Image import Image

MARGIN = 8 / 7
"""What pretrained networks are tested with: images of 256 pixels, of which 224 are seen."""

LONGEST = 32
"""How much longer an image may be than what is cut out of it, before its ends go first."""


@dataclass(frozen=True)
class Resize:
    """A size, and what is done with images of another one. All is bilinear, and averages.

    Attributes:
        rows, columns: The size.
        how: "crop": scaled until both sides are covered, then the centre; "imagenet": likewise
            with a margin of 16 in 224 pixels to each side; "stretch": each side by itself.
    """

    rows: int
    columns: int
    how: str = "crop"

    def image(self, image: Image) -> Image:
        """An image of that size. Square ones are, bit by bit, those of torchvision."""
        from PIL import Image as pillow

        rows, columns = self.rows, self.columns
        if self.how != "stretch":
            image = _trimmed(image, rows, columns)
            grow = MARGIN if self.how == "imagenet" else 1
            rows, columns = _covering(image, round(grow * rows), round(grow * columns))
        if image.size != (columns, rows):
            image = image.resize((columns, rows), pillow.Resampling.BILINEAR)
        if (rows, columns) == (self.rows, self.columns):
            return image
        top, left = round((rows - self.rows) / 2), round((columns - self.columns) / 2)
        return image.crop((left, top, left + self.columns, top + self.rows))

    def arrays(self, x: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """uint8 [n, H, W, C] as uint8 [n, rows, columns, C].

        Raises:
            MissingDependencyError: Pillow isn't installed, and there is something to do.
        """
        if x.shape[1:3] == (self.rows, self.columns) and self.how != "imagenet":
            return x
        try:
            from PIL import Image as pillow
        except ImportError as error:
            raise MissingDependencyError(
                "resizing images needs Pillow: pip install 'onnx-ghn[train]'"
            ) from error
        images = x[..., 0] if x.shape[3] == 1 else x  # Pillow's grey images have two axes
        resized = [np.asarray(self.image(pillow.fromarray(image))) for image in images]
        return np.stack(resized).reshape(len(x), self.rows, self.columns, x.shape[3])


def _trimmed(image: Image, rows: int, columns: int) -> Image:
    """The image without ends far outside the crop: a line of pixels would grow to gigabytes."""
    width, height = image.size
    wide = min(width, max(1, LONGEST * height * columns // rows))
    tall = min(height, max(1, LONGEST * width * rows // columns))
    if (wide, tall) == (width, height):
        return image
    left, top = (width - wide) // 2, (height - tall) // 2
    return image.crop((left, top, left + wide, top + tall))


def _covering(image: Image, rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns of the image when it just covers so many, its aspect kept."""
    width, height = image.size
    if width * rows <= height * columns:
        return height * columns // width, columns
    return rows, width * rows // height
