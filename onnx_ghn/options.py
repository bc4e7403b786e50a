"""Options as frozen dataclasses: the one source of the command line and of the Python interface.

Each field carries its help text, and its choices where it has some, in `metadata`;
`onnx_ghn.cli.options` makes click options of them.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx_ghn.errors import OptionError

METHODS = ("auto", "ghn", "classical", "orthogonal", "kaiming", "lecun", "xavier", "normal")
"""`auto` decides, `ghn` predicts, `classical` picks by role; the rest name one initialiser."""

NOISE = 1e-5
"""The noise that the authors of GHN-3 add to predicted weights before fine-tuning."""

ENGINES = ("torch", "onnxruntime")

DEVICES = ("cpu", "cuda")

MAX_THREADS = 1024

RESIZES = ("crop", "imagenet", "stretch")


def option(default: Any, help: str, **metadata: Any) -> Any:
    """A dataclass field that describes itself: help text, and click's own keywords."""
    return dataclasses.field(default=default, metadata={"help": help, **metadata})


@dataclass(frozen=True, kw_only=True)
class InitializeOptions:
    """What `Initialize` does and to which tensors."""

    method: str = option(
        "auto",
        "How to set learnable tensors. auto: predict where the archive was tested and did no harm, "
        "else classical; ghn: predict everything that the vocabulary holds; classical: by role; or "
        "one initialiser for all weight matrices.",
        choices=METHODS,
    )
    seed: int = option(0, "Seed of every random draw. Same input, same seed: same bits out.", min=0)
    hypernet: Path | None = option(
        None,
        "Hypernetwork archive to use instead of the one that ships. An archive is code: load only "
        "what you trust.",
        metavar="PATH",
    )
    engine: str = option(
        "torch",
        "What runs the hypernetwork. onnxruntime needs no torch and starts sooner.",
        choices=ENGINES,
    )
    device: str = option(
        "cpu",
        "Where torch runs the hypernetwork, and ONNX Runtime the model that is calibrated.",
        choices=DEVICES,
    )
    noise: float | None = option(
        None,
        "Before fine-tuning: noise on predicted weights, which breaks the tie between equal "
        "channels, in units of the spread of the weight's correlations; 0 adds none.  [default: "
        "1e-5, the published value, where auto chose to predict and in finetune, else 0]",
        min=0.0,
        metavar="SIGMA",
    )
    orthogonal: bool = option(
        False,
        "Before fine-tuning: replace predicted weights by their orthogonal factors; takes torch.",
    )
    missing_only: bool = option(
        False, "Set only the learnable tensors for which the file holds no value."
    )
    include: tuple[str, ...] = option(
        (), "Set only tensors whose name matches the pattern. Repeatable.", metavar="GLOB"
    )
    exclude: tuple[str, ...] = option(
        (), "Keep tensors whose name matches the pattern. Repeatable.", metavar="GLOB"
    )
    roles: tuple[str, ...] = option(
        (),
        "Say what a tensor is where the reader errs, hence that it may be set (constant: that it "
        "is to be kept). Goes before the plan file. Repeatable.",
        flag="--role",
        metavar="NAME=ROLE",
    )
    plan: Path | None = option(
        None,
        "Set each tensor as this file says: inspect --save-plan makes it, to be edited. --method "
        "goes before the file's actions but keep; --include and --exclude still hold.",
        metavar="FILE",
    )

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise OptionError(f"unknown method {self.method!r}: choose one of {', '.join(METHODS)}")
        if self.engine not in ENGINES:
            raise OptionError(f"unknown engine {self.engine!r}: choose one of {', '.join(ENGINES)}")
        if self.device not in DEVICES:
            raise OptionError(f"unknown device {self.device!r}: choose one of {', '.join(DEVICES)}")
        if self.device != "cpu" and self.engine == "onnxruntime":
            raise OptionError("the onnxruntime engine runs on the CPU: use --engine torch on CUDA")
        if self.noise is not None and not 0 <= self.noise < math.inf:
            raise OptionError(f"the noise must be a number from 0 up, got {self.noise}")
        for given in self.roles:
            name, _, role = given.rpartition("=")
            if not name or not role:
                raise OptionError(f"--role takes NAME=ROLE, got {given!r}")
        if self.seed < 0:
            raise OptionError(f"the seed must not be negative, got {self.seed}")

    @property
    def noise_level(self) -> float:
        """`noise`; where it is None, what suits: `auto` sets weights that are to be trained.

        A plan file says itself what is predicted, whatever the method it came from.
        """
        if self.noise is not None:
            return self.noise
        return NOISE if self.method == "auto" and self.plan is None else 0.0


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a model runs over labelled data."""

    batch_size: int = option(64, "Examples of a batch, where the model leaves that open.", min=1)
    side: int = option(
        0,
        "Rows and columns to which images are resized, where the model leaves that open; 0 keeps "
        "their size.",
        min=0,
    )
    resize: str = option(
        "crop",
        "How images of another size get there. crop: scaled until both sides fit, then the centre; "
        "imagenet: likewise with a margin, 256 pixels for 224, as pretrained networks are tested; "
        "stretch: each side by itself.",
        choices=RESIZES,
    )
    mean: tuple[float, ...] = option(
        (),
        "Subtracted from images in [0, 1], one number or one a channel.  [default: what the model "
        "was calibrated with, else 0]",
        metavar="R,G,B",
    )
    std: tuple[float, ...] = option(
        (),
        "Divides images after that, one number or one a channel.  [default: what the model was "
        "calibrated with, else 1]",
        metavar="R,G,B",
    )
    limit: int = option(0, "Use so many examples, spread evenly over the data; 0: all.", min=0)
    device: str = option("cpu", "Where ONNX Runtime runs the model.", choices=DEVICES)
    threads: int = option(
        1,
        "Threads of ONNX Runtime on the CPU. With one, the number of cores changes no bit.",
        min=1,
        max=MAX_THREADS,
    )

    def __post_init__(self) -> None:
        if self.device not in DEVICES:
            raise OptionError(f"unknown device {self.device!r}: choose one of {', '.join(DEVICES)}")
        if self.resize not in RESIZES:
            raise OptionError(f"unknown resize {self.resize!r}: choose one of {', '.join(RESIZES)}")
        if self.batch_size < 1 or self.side < 0 or self.limit < 0:
            raise OptionError("the batch size must be at least 1, side and limit at least 0")
        if not 1 <= self.threads <= MAX_THREADS:
            raise OptionError(f"threads must be from 1 to {MAX_THREADS}, got {self.threads}")
        if not all(abs(number) <= 1e6 for number in (*self.mean, *self.std)):
            raise OptionError("mean and std must be finite numbers, at most 1e6")
        if not all(number >= 1e-6 for number in self.std):
            raise OptionError("std must be greater than 0, at least 1e-6: it divides the images")
