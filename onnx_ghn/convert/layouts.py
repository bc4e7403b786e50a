"""Published checkpoints of GHN-2 and GHN-3: their configuration and names, in ours."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from onnx_ghn.errors import ArchiveError
from onnx_ghn.hypernet.config import CENTRE, CORNER, GATED, GRAPHORMER, NetworkConfig
from onnx_ghn.model_io.tensors import quote

State = dict[str, npt.NDArray[np.float32]]

MAX_LAYERS = 256
"""The largest published checkpoint has 24."""

RENAMES = (
    (r"embed\.weight", "embedding.op.weight"),
    (r"shape_enc\.embed_channel\.weight", "embedding.channel.weight"),
    (r"shape_enc\.embed_spatial\.weight", "embedding.side.weight"),
    # At the top of published files, under the first layer in the reference trainer's own.
    (r"(?:gnn\.0\.)?centrality_embed_in\.weight", "encoder.centrality.in_degree.weight"),
    (r"(?:gnn\.0\.)?centrality_embed_out\.weight", "encoder.centrality.out_degree.weight"),
    (r"(?:gnn\.0\.)?input_dist_embed\.weight", "encoder.centrality.from_input.weight"),
    (r"gnn\.0\.attn\.edge_embed\.embed\.weight", "encoder.bias.embedding.weight"),
    (r"gnn\.0\.attn\.proj_e\.(0|2)\.(.+)", r"encoder.bias.mix.\1.\2"),
    (r"gnn\.(\d+)\.ln1\.(.+)", r"encoder.layers.\1.attention_norm.\2"),
    (r"gnn\.(\d+)\.ln2\.(.+)", r"encoder.layers.\1.feed_norm.\2"),
    (r"gnn\.(\d+)\.attn\.to_qkv\.(.+)", r"encoder.layers.\1.attention.qkv.\2"),
    (r"gnn\.(\d+)\.attn\.to_out\.0\.(.+)", r"encoder.layers.\1.attention.out.\2"),
    (r"gnn\.(\d+)\.ff\.net\.0\.(.+)", r"encoder.layers.\1.feed_in.\2"),
    (r"gnn\.(\d+)\.ff\.net\.3\.(.+)", r"encoder.layers.\1.feed_out.\2"),
    (r"gnn\.mlp\.fc\.0\.(.+)", r"encoder.message.inner.\1"),
    (r"gnn\.mlp\.fc\.2\.(.+)", r"encoder.message.outer.\1"),
    (r"gnn\.mlp_ve\.fc\.0\.(.+)", r"encoder.far_message.inner.\1"),
    (r"gnn\.mlp_ve\.fc\.2\.(.+)", r"encoder.far_message.outer.\1"),
    (r"gnn\.gru\.(.+)", r"encoder.update.\1"),
    (r"ln\.(weight|bias)", r"norm.\1"),
    (r"decoder\.fc\.0\.(.+)", r"weight.positions.\1"),
    (r"decoder\.conv\.0\.(.+)", r"weight.inner.\1"),
    (r"decoder\.conv\.2\.(.+)", r"weight.outer.\1"),
    (r"decoder\.class_layer_predictor\.1\.(.+)", r"weight.classifier.\1"),
    (r"decoder_1d\.fc\.0\.(.+)", r"vector.inner.\1"),
    (r"decoder_1d\.fc\.2\.(.+)", r"vector.outer.\1"),
    (r"bias_class\.1\.(.+)", r"vector.classifier.\1"),
)


def state_of(checkpoint: Any, source: str) -> dict[str, npt.NDArray[Any]]:
    """The state dict of a checkpoint: the checkpoint itself, or what a trainer wrapped around it.

    Raises:
        ArchiveError: There is none.
    """
    if isinstance(checkpoint, Mapping) and "state_dict" in checkpoint:
        checkpoint = checkpoint["state_dict"]
    if not isinstance(checkpoint, Mapping):
        raise ArchiveError(f"{source}: holds no state dict of a hypernetwork")
    state = {}
    for key, value in checkpoint.items():
        if not isinstance(key, str) or not isinstance(value, np.ndarray) or not value.size:
            name = quote(key) if isinstance(key, str) else f"of type {type(key).__name__}"
            raise ArchiveError(
                f"{source}: holds no state dict of a hypernetwork: the entry {name} isn't a name "
                "with a tensor"
            )
        state[key.removeprefix("module.")] = value
    if not state:
        raise ArchiveError(f"{source}: holds no state dict of a hypernetwork: it is empty")
    return state


def infer_config(state: Mapping[str, npt.NDArray[Any]], source: str) -> NetworkConfig:
    """The sizes of a published hypernetwork, from the shapes of its tensors.

    Raises:
        ArchiveError: A tensor is missing, or the shapes fit no known hypernetwork.
    """
    try:
        gated = any(key.startswith("gnn.gru.") for key in state)
        channels = math.isqrt(state["decoder.conv.2.weight"].shape[0])
        # The spatial table has 8 entries up to side 11, 10 at 16, and a row for "none".
        hidden = state["embed.weight"].shape[1]
        side = math.isqrt(state["decoder.fc.0.weight"].shape[0] // (4 * hidden))
        layers = sum(re.fullmatch(r"gnn\.\d+\.ln1\.weight", key) is not None for key in state)
        if layers > MAX_LAYERS:
            raise ArchiveError(f"has {layers} layers, at most {MAX_LAYERS} are read")
        return NetworkConfig(
            encoder=GATED if gated else GRAPHORMER,
            hidden=hidden,
            layers=1 if gated else layers,
            heads=1 if gated else state["gnn.0.attn.proj_e.2.weight"].shape[0],
            channels=(channels, channels),
            side=side,
            classes=state["decoder.class_layer_predictor.1.weight"].shape[0],
            window=CORNER if gated else CENTRE,
            final_norm="ln.weight" in state,
        )
    except ArchiveError as error:
        raise ArchiveError(f"{source}: {error}") from error
    except (KeyError, IndexError) as error:
        raise ArchiveError(
            f"{source}: isn't a GHN-2 or GHN-3 checkpoint: no usable {error}"
        ) from error


def rename(state: Mapping[str, npt.NDArray[Any]], source: str) -> State:
    """The state dict in the names, shapes and type of `Hypernetwork`.

    Raises:
        ArchiveError: A tensor has no counterpart.
    """
    renamed: State = {}
    for key, value in state.items():
        for pattern, replacement in RENAMES:
            if match := re.fullmatch(pattern, key):
                name = match.expand(replacement)
                break
        else:
            raise ArchiveError(f"{source}: unknown tensor {quote(key)} in the checkpoint")
        if value.ndim == 4:  # GHN-2 keeps its per-position layers as 1x1 convolutions
            value = value.reshape(value.shape[:2])
        renamed[name] = np.ascontiguousarray(value, dtype=np.float32)
    return renamed
