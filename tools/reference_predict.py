"""Exports torchvision models to ONNX, and writes down what the reference makes of each.

`tools/parity_unseen.py --reference DIR` runs this with DIR and what it needs (ppuda, torchvision,
transformers ...) on the module path. Nothing of the reference is part of this project.

Usage: python tools/reference_predict.py CHECKPOINT OUT MODEL...

A model is a name of torchvision, as it is when it is made: in training mode; with `:eval` after the
name in evaluation mode, as its ONNX files are. OUT gets three files of each (the forms are those of
the parity fixtures) and `MODEL.npz`: graph, and a sample of each predicted parameter.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import torchvision
from ghn3.graph import Graph, GraphBatch
from ghn3.nn import GHN3

from onnx_ghn.convert.layouts import infer_config, state_of
from onnx_ghn.convert.unpickle import read_checkpoint
from onnx_ghn.hypernet.config import GATED

SAMPLE = 512
"""Values of a parameter that are kept: as many, drawn from a seed, or all."""


def main() -> None:
    """Write the files of every model."""
    checkpoint, out, *names = sys.argv[1:]
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    network, classes = _load(Path(checkpoint))
    for entry in names:
        name, _, mode = entry.partition(":")
        torch.manual_seed(0)
        try:
            model = getattr(torchvision.models, name)(weights=None, num_classes=classes)
            _export(model.eval(), Path(out), name, mode)
            model.train(mode != "eval")
            with mock.patch("torch.nn.functional.scaled_dot_product_attention", _attention):
                fixture = _predict(network, model)
            np.savez(Path(out) / f"{name}.npz", **fixture)
        except Exception as error:  # one that the reference can't read says so, and others go on
            print(f"{name}: {type(error).__name__}: {str(error).strip()[:200]}", flush=True)


def _load(file: Path) -> tuple[GHN3, int]:
    state = state_of(read_checkpoint(file), str(file))
    config = infer_config(state, str(file))
    gated = config.encoder == GATED
    network = GHN3(
        max_shape=(*config.channels, config.side, config.side),
        num_classes=config.classes,
        hid=config.hidden,
        heads=config.heads,
        layers=config.layers,
        is_ghn2=gated,
        pretrained=True,
        weight_norm=True,
        ve=True,
        layernorm=config.final_norm,
    )
    tensors = {key: torch.tensor(value) for key, value in state.items()}
    if gated:
        tensors = {
            k: v.reshape(v.shape[:2]) if "decoder." in k and v.dim() == 4 else v
            for k, v in tensors.items()
        }
    network.load_state_dict(tensors)
    if not gated:
        network.fix_embed_layers()
    return network.eval(), config.classes


def _export(model: torch.nn.Module, out: Path, name: str, mode: str) -> None:
    side = 299 if name == "inception_v3" else 224
    images = (torch.zeros(1, 3, side, side),)
    forms = {"legacy_preserve": torch.onnx.TrainingMode.PRESERVE}
    if mode != "eval":
        forms["legacy_train"] = torch.onnx.TrainingMode.TRAINING
    for form, training in forms.items():
        if not (file := out / f"{name}.{form}.onnx").exists():
            torch.onnx.export(
                model, images, file, dynamo=False, training=training, do_constant_folding=False
            )
    if not (file := out / f"{name}.dynamo_noopt.onnx").exists():
        torch.onnx.export(
            model, images, file, dynamo=True, optimize=False, external_data=False, verbose=False
        )


def _predict(network: GHN3, model: torch.nn.Module) -> dict[str, Any]:
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    rows: list[torch.Tensor] = []
    encoder = network.shape_enc
    hooks = [
        table.register_forward_pre_hook(lambda _, inputs: rows.append(inputs[0]))
        for table in (encoder.embed_channel, encoder.embed_spatial)
    ]
    graph = Graph(model, ve_cutoff=50, verbose=False)
    with torch.no_grad():
        network(model, graphs=GraphBatch([graph], dense=network.is_dense()))
    for hook in hooks:
        hook.remove()
    after = dict(model.named_parameters())
    predicted = [k in after and not torch.equal(after[k], v) for k, v in before.items()]
    index = np.full((len(before), SAMPLE), -1, np.int64)
    values = np.zeros((len(before), SAMPLE), np.float32)
    for k, (name, value) in enumerate(before.items()):
        if predicted[k]:
            places = np.arange(value.numel())
            if len(places) > SAMPLE:
                places = np.random.default_rng(k).choice(places, SAMPLE, replace=False)
            index[k, : len(places)] = places
            values[k, : len(places)] = after[name].detach().flatten().numpy()[places]
    nodes = [
        {} if node["module"] is None else {"param": node["param_name"]} for node in graph._nodes
    ]
    meta = {
        "nodes": nodes,
        "params": list(before),
        "shapes": [tuple(value.shape) for value in before.values()],
        "predicted": predicted,
    }
    adjacency = graph._Adj if network.is_dense() else _dense(graph)
    return {
        "meta": json.dumps(meta),
        "adj": adjacency.numpy().astype(np.int64),
        "prim": graph.node_feat[:, 0].numpy(),
        "shape_ind": torch.stack(rows, 1).numpy(),
        "p_idx": index,
        "p_val": values,
    }


def _attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any) -> Any:
    """Attention in steps: today's single operation hides the softmax from the reference."""
    scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
    return scores.softmax(-1) @ value


def _dense(graph: Graph) -> torch.Tensor:
    count = len(graph.node_feat)
    adjacency = torch.zeros(count, count, dtype=torch.long)
    adjacency[graph.edges[:, 0], graph.edges[:, 1]] = graph.edges[:, 2]
    return adjacency


if __name__ == "__main__":
    main()
