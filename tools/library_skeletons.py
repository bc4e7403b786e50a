"""Exports other people's networks for 32 x 32 images and ten classes as ONNX without weights.

    python tools/library_skeletons.py training/skeletons

Needs torchvision and timm, each with its own licence; nothing of theirs but the graphs is kept.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import onnx
import torch

import onnx_ghn

CLASSES, SIDE = 10, 32
TORCHVISION = (
    "resnet18",
    "resnet34",
    "resnet50",
    "mobilenet_v2",
    "vgg11_bn",
    "shufflenet_v2_x1_0",
    "densenet121",
    "squeezenet1_1",
)
TIMM: dict[str, tuple[str, dict[str, Any]]] = {
    "vit_tiny_patch4": (
        "vit_tiny_patch16_224",
        {"img_size": SIDE, "patch_size": 4, "depth": 6},
    ),
    "convnext_atto": ("convnext_atto", {}),
    "efficientnet_b0": ("efficientnet_b0", {}),
}
"""File name: the model in timm, and how it differs from its default."""


def main() -> None:
    """Export those that the folder lacks."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", help="names of networks")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for name in (*TORCHVISION, *TIMM):
        target = arguments.folder / f"{name}.onnx"
        if target.exists() or (arguments.only and name not in arguments.only):
            continue
        full = target.with_suffix(".full.onnx")
        torch.onnx.export(
            build(name),
            (torch.zeros(2, 3, SIDE, SIDE),),
            full,
            dynamo=False,
            opset_version=17,
            input_names=["images"],
            output_names=["scores"],
            dynamic_axes={"images": {0: "batch"}, "scores": {0: "batch"}},
            # Folding would merge BatchNormalization into convolutions.
            training=torch.onnx.TrainingMode.PRESERVE,
            do_constant_folding=False,
        )
        onnx_ghn.strip(full, target)
        full.unlink()
        # Where the nodes stood in somebody's source is of no use, and names their machine.
        model = onnx.load(target, load_external_data=False)
        for node in model.graph.node:
            node.ClearField("doc_string")
        target.write_bytes(model.SerializeToString())
        print(f"{target}: {target.stat().st_size:,} bytes")


def build(name: str) -> torch.nn.Module:
    """A network with random weights."""
    if name in TORCHVISION:
        import torchvision

        module = torchvision.models.get_model(name, weights=None, num_classes=CLASSES)
        if isinstance(module, torchvision.models.VGG):
            # One pixel is left of 32 x 32: the 7 x 7 that the classifier takes would be copies.
            module.avgpool = torch.nn.AdaptiveAvgPool2d(1)
            module.classifier[0] = torch.nn.Linear(512, 4096)
    else:
        import timm

        model, how = TIMM[name]
        module = timm.create_model(model, num_classes=CLASSES, **how)
    assert isinstance(module, torch.nn.Module)
    return module.eval()


if __name__ == "__main__":
    main()
