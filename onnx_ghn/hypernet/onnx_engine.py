"""Runs a hypernetwork in ONNX Runtime, without torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from onnx_ghn.hypernet.config import CENTRE, GATED, GRAPHORMER, NetworkConfig
from onnx_ghn.hypernet.engines import Floats, Ints
from onnx_ghn.run.session import open_session

ENCODERS = (GRAPHORMER, GATED)
"""Designs that have an ONNX form."""
GRAPHS = ("encode", "weight", "classifier", "vector")
"""Names of the ONNX models, see `onnx_ghn.hypernet.onnx_graphs`."""


def graph_file(archive: Path, name: str) -> Path:
    """Where the ONNX model `name` of an archive lies."""
    return archive.with_suffix(f".{name}.onnx")


class OnnxEngine:
    """The five methods over the archive's ONNX models; see `onnx_ghn.hypernet.engines.Engine`."""

    def __init__(self, archive: Path, network: NetworkConfig, threads: int = 1) -> None:
        """Open the models.

        Args:
            archive: The archive's `.pt` file; the models and their weights lie beside it.
            network: Sizes.
            threads: Compute threads.

        Raises:
            MissingDependencyError: ONNX Runtime is not installed.
            ModelError: A model can't be loaded.
        """
        self._network = network
        self._sessions = {
            name: open_session(graph_file(archive, name), threads=threads) for name in GRAPHS
        }

    def encode(self, features: Ints, distance: Ints) -> Floats:
        """Features int64[N, F], distance int64[N, N] -> states [N, H]."""
        return self._run("encode", features=features, distance=distance)["states"]

    def decode_weight(
        self, states: Floats, features: Ints, o: int, i: int, kh: int, kw: int
    ) -> Floats:
        """States [n, H] -> [n, min(o, C0), min(i, C1), kh, kw]."""
        c0, c1 = self._network.channels
        return self._run(
            "weight",
            states=states,
            rows=self._window(kh),
            columns=self._window(kw),
            o=np.array([min(o, c0)]),
            i=np.array([min(i, c1)]),
            kernel=np.array([kh, kw]),
        )["tile"]

    def decode_class_weight(self, states: Floats, features: Ints, i: int) -> Floats:
        """States [n, H] -> [n, classes, min(i, C1)]."""
        tile = self.decode_weight(states, features, self._network.channels[0], i, 1, 1)
        return self._run("classifier", tile=tile[:, :, :, 0, 0])["weight"]

    def decode_vector(self, states: Floats, features: Ints, m: int) -> Floats:
        """States [n, H] -> [n, 2, min(m, M)]: scale and shift."""
        return self._run("vector", states=states)["vectors"][:, :, :m]

    def decode_class_bias(self, states: Floats, features: Ints) -> Floats:
        """States [n, H] -> [n, classes]."""
        return self._run("vector", states=states)["class_bias"]

    def _run(self, name: str, **feeds: Floats | Ints) -> dict[str, Floats]:
        return self._sessions[name].run(feeds)

    def _window(self, k: int) -> Ints:
        """Rows of the decoder's map that a kernel of side `k` takes."""
        side = self._network.side
        first = max(0, side // 2 - k // 2) if self._network.window == CENTRE else 0
        return np.arange(first, min(side, first + k), dtype=np.int64)
