"""What an archive says of itself: the network's sizes, what it reads, and where it comes from."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from onnx_ghn.errors import ArchiveError
from onnx_ghn.hypernet.harm import HarmTable
from onnx_ghn.read.graph import VOCABULARY

FORMAT = 1
"""Version of the archive format; an archive with a higher one is refused."""

COLUMNS = ("op", "out_channels", "in_channels", "kernel_height", "kernel_width")
"""Feature columns of GHN-2 and GHN-3: the primitive and four rows of shape embeddings."""

GRAPHORMER = "graphormer"
GATED = "gated"
KINDS = "kinds"
CENTRE = "centre"
CORNER = "corner"

MAX_SIZE = 1 << 20
"""A larger size of a hypernetwork is taken for damage."""
MAX_DEGREE = 100
"""Degrees of a node that have an embedding in GHN-3."""
MAX_DISTANCE_FROM_INPUT = 1000
"""Distances from the input that have an embedding in GHN-3."""
EDGE_CODES = 257
"""Embeddings of distances 0..254 in GHN-3, which keeps two more before them for padding."""


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Sizes of a hypernetwork: all that is needed to build it without weights.

    Attributes:
        encoder: "graphormer" (GHN-3), "gated" (GHN-2), or "kinds" (our own design).
        hidden: Width H of a node's state.
        layers: Transformer layers; 1 for "gated".
        heads: Attention heads; 1 for "gated".
        channels: (C0, C1), the most output and input channels that are decoded, not tiled.
        side: Side S of the decoder's square spatial map, in kernel positions.
        classes: Outputs of the classifier that the class heads predict.
        window: Which part of the map a smaller kernel takes, "centre" (GHN-3) or "corner".
        final_norm: Whether a LayerNorm follows the encoder.
        aligned: Whether a channel takes that part of a tile which its place in the stream of
            channels says (`onnx_ghn.read.channels`), not its number in its layer.
    """

    encoder: str
    hidden: int
    channels: tuple[int, int]
    side: int
    classes: int
    layers: int = 1
    heads: int = 1
    window: str = CENTRE
    final_norm: bool = True
    aligned: bool = False

    def __post_init__(self) -> None:
        sizes = (self.hidden, self.layers, self.heads, self.side, self.classes, *self.channels)
        whole = all(type(size) is int and 0 < size <= MAX_SIZE for size in sizes)
        if not whole or len(self.channels) != 2:
            raise ArchiveError(
                f"the sizes of a hypernetwork must be whole numbers from 1 to {MAX_SIZE}"
            )
        if self.encoder not in (GRAPHORMER, GATED, KINDS):
            raise ArchiveError(
                f"unknown encoder {self.encoder!r} in a hypernetwork's configuration"
            )
        if self.window not in (CENTRE, CORNER):
            raise ArchiveError(f"unknown window {self.window!r} of a hypernetwork's decoder")
        if self.hidden % self.heads or self.hidden % 4:
            raise ArchiveError(
                f"a hypernetwork's width must be a multiple of 4 and of its heads, "
                f"got {self.hidden} with {self.heads} heads"
            )


@dataclass(frozen=True, kw_only=True)
class ArchiveConfig:
    """The JSON of an archive.

    Attributes:
        name: Short name, as reports print it.
        network: Sizes.
        trained: Whether the weights come from training. Untrained ones are for tests and demos.
        image_side: Side of the images that it was trained on, in pixels; 0 where unknown.
        mean, std: Normalisation of those images, per channel, of values in [0, 1].
        domain: What it was trained on, in words.
        provenance: Seed, source file and its sha256, tool versions: whatever leads back.
        held_out: Results on architectures that were not trained on, one object a row.
        harm: What fine-tuning experiments say of its predictions; None where there were none.
        licence: SPDX identifier of the weights' licence.
        vocabulary: Name and version of the node types that it knows.
        columns: Feature columns that `encode` and the decoders take, in order.
        format: Version of this layout.
    """

    name: str
    network: NetworkConfig
    trained: bool
    image_side: int = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    domain: str = ""
    provenance: dict[str, Any] = field(default_factory=dict)
    held_out: tuple[dict[str, Any], ...] = ()
    harm: HarmTable | None = None
    licence: str = ""
    vocabulary: dict[str, Any] = field(default_factory=lambda: dict(VOCABULARY))
    columns: tuple[str, ...] = COLUMNS
    format: int = FORMAT

    def __post_init__(self) -> None:
        texts = (self.name, self.domain, self.licence, *self.columns)
        numbers = (self.image_side, *self.mean, *self.std)
        objects = (self.provenance, self.vocabulary, *self.held_out)
        if (
            not all(isinstance(text, str) for text in texts)
            or not all(isinstance(number, int | float) for number in numbers)
            or not all(isinstance(entry, dict) for entry in objects)
        ):
            raise ArchiveError(
                f"the description of the hypernetwork {str(self.name)[:60]!r} has a field of the "
                "wrong type"
            )

    def to_json(self) -> str:
        """The configuration as JSON text, keys in a fixed order."""
        harm = None if self.harm is None else self.harm.to_json()
        data = dataclasses.asdict(dataclasses.replace(self, harm=None)) | {"harm": harm}
        return json.dumps(data, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, source: str) -> ArchiveConfig:
        """Read the JSON text of the archive `source`.

        Raises:
            ArchiveError: The text isn't a configuration, or is newer than this tool.
        """
        try:
            data = json.loads(text)
            version, vocabulary = data["format"], data["vocabulary"]
            foreign = (
                vocabulary.get("name") != VOCABULARY["name"]
                or vocabulary.get("version", 0) > VOCABULARY["version"]
            )
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ArchiveError(
                f"{source}: the configuration of the hypernetwork archive is damaged"
            ) from error
        if not isinstance(version, int) or version > FORMAT:
            raise ArchiveError(
                f"{source}: archive format {version} is newer than this tool understands "
                f"({FORMAT}); update onnx-ghn"
            )
        if foreign:
            raise ArchiveError(
                f"{source}: archive uses vocabulary {vocabulary}, this tool knows {VOCABULARY}; "
                "update onnx-ghn"
            )
        try:
            network = data["network"] | {"channels": tuple(data["network"]["channels"])}
            fields: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value
                for key, value in data.items()
            }
            fields["network"] = NetworkConfig(**network)
            if fields.get("harm") is not None:
                fields["harm"] = HarmTable.from_json(fields["harm"], source)
            return cls(**fields)
        except ArchiveError as error:
            named = str(error) if source in str(error) else f"{source}: {error}"
            raise ArchiveError(named) from error
        except (KeyError, TypeError) as error:
            raise ArchiveError(
                f"{source}: the configuration of the hypernetwork archive lacks or misnames a "
                f"field ({error})"
            ) from error
