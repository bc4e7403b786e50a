"""Options of a ranking."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnx_ghn.errors import OptionError
from onnx_ghn.options import ENGINES, METHODS, InitializeOptions, option

SCORES = ("top1", "loss", "params", "flops", "synflow", "naswot")
"""What candidates can be ranked by; the higher the better, for `loss` its negative."""

TESTED = ("top1", "loss")
"""Scores that are measured on the labels."""

RANDOM = ("synflow", "naswot")
"""Scores that their authors define at random weights."""

MOST_SAMPLED = 1_000_000
"""Networks of one seed; those of the next one follow."""


@dataclass(frozen=True, kw_only=True)
class RankOptions:
    """What is ranked, by what, and on which processes."""

    score: str = option(
        "top1",
        "What to rank by. top1, loss: tested with predicted weights; params, flops: size and cost; "
        "synflow, naswot: training-free scores at random weights.",
        choices=SCORES,
    )
    method: str | None = option(
        None,
        "How tensors without a value are set, as for init.  [default: ghn; for synflow and naswot "
        "kaiming]",
        choices=METHODS,
    )
    overwrite: bool = option(
        False,
        "Set all learnable tensors, also those with a value: ranks the architectures, whatever "
        "weights the files hold.",
    )
    sample: int = option(
        0, "Rank so many networks from the generator, besides any MODEL.", min=0, metavar="N"
    )
    space: str = option("narrow", "Space that --sample draws from.", metavar="NAME")
    seed: int = option(
        0, "Seed of the networks of --sample, of initial weights and of the order of examples.",
        min=0,
    )  # fmt: skip
    hypernet: Path | None = option(
        None,
        "Hypernetwork archive to use instead of the one that ships. An archive is code: load only "
        "what you trust.",
        metavar="PATH",
    )
    engine: str = option("torch", "What runs the hypernetwork.", choices=ENGINES)
    processes: int = option(
        0, "Processes, each of one thread; 0: one for each core, on CUDA one.", min=0
    )
    ray: str = option(
        "",
        "Run on the Ray cluster at this address (host:port, ray://host:port, or auto). All of its "
        "machines see files and data under the same paths.",
        metavar="ADDRESS",
    )

    def __post_init__(self) -> None:
        if self.score not in SCORES:
            raise OptionError(f"unknown score {self.score!r}: choose one of {', '.join(SCORES)}")
        if self.processes < 0 or not 0 <= self.sample <= MOST_SAMPLED:
            raise OptionError(
                f"processes must be at least 0, and samples 0 to {MOST_SAMPLED:,}, got "
                f"{self.processes} and {self.sample}"
            )
        if self.ray and self.processes:
            raise OptionError("--processes is for this machine: a Ray cluster uses all its cores")
        self.initialize  # noqa: B018 (checks method, seed and engine)

    @property
    def initialize(self) -> InitializeOptions:
        """How candidates are initialised."""
        return InitializeOptions(
            method=self.method or ("kaiming" if self.score in RANDOM else "ghn"),
            seed=self.seed,
            hypernet=self.hypernet,
            engine=self.engine,
            missing_only=not self.overwrite,
        )
