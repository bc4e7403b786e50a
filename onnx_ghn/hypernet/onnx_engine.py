"""Runs a hypernetwork in ONNX Runtime, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from onnx_ghn.hypernet.config import CENTRE, KINDS, NetworkConfig
from onnx_ghn.hypernet.engines import Engine, Floats, Ints
from onnx_ghn.run.session import Session, open_session

GRAPHS = ("encode", "weight", "classifier", "vector")
"""Names of the ONNX models, see `onnx_ghn.hypernet.onnx_graphs`."""


def graph_file(archive: Path, name: str) -> Path:
    """Where the ONNX model `name` of an archive lies."""
    return archive.with_suffix(f".{name}.onnx")


def open_engine(archive: Path, network: NetworkConfig, threads: int = 1) -> Engine:
    """Open the ONNX models of an archive.

    Args:
        archive: The archive's `.pt` file; the models and their weights lie beside it.
        network: Design and sizes.
        threads: Compute threads.

    Raises:
        MissingDependencyError: ONNX Runtime is not installed.
        ModelError: A model can't be loaded.
    """
    sessions = {
        name: open_session(graph_file(archive, name), threads=threads, few_runs=True)
        for name in GRAPHS
    }
    if network.encoder == KINDS:
        return KindsOnnxEngine(sessions, network)
    return OnnxEngine(sessions, network)


class OnnxEngine:
    """The five methods of GHN-2 and GHN-3; see `onnx_ghn.hypernet.engines.Engine`."""

    def __init__(self, sessions: Mapping[str, Session], network: NetworkConfig) -> None:
        self._sessions = sessions
        self._network = network

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


class KindsOnnxEngine:
    """The five methods of our own design; see `onnx_ghn.hypernet.engines.Engine`."""

    def __init__(self, sessions: Mapping[str, Session], network: NetworkConfig) -> None:
        self._sessions = sessions
        self._network = network

    def encode(self, features: Ints, distance: Ints) -> Floats:
        """Features int64[N, F], distance int64[N, N] -> states [N, H]."""
        feeds = {"features": features, "distance": distance}
        return self._sessions["encode"].run(feeds)["states"]

    def decode_weight(
        self, states: Floats, features: Ints, o: int, i: int, kh: int, kw: int
    ) -> Floats:
        """States [n, H] -> [n, min(o, C0), min(i, C1), kh, kw]."""
        c0, c1 = self._network.channels
        sizes = {"o": [min(o, c0)], "i": [min(i, c1)], "kernel": [kh, kw]}
        feeds = {name: np.array(size) for name, size in sizes.items()}
        return self._run("weight", states, features, **feeds)["tile"]

    def decode_class_weight(self, states: Floats, features: Ints, i: int) -> Floats:
        """States [n, H] -> [n, classes, min(i, C1)]."""
        return self._run("classifier", states, features)["weight"][:, :, :i]

    def decode_vector(self, states: Floats, features: Ints, m: int) -> Floats:
        """States [n, H] -> [n, 2, min(m, M)]: scale and shift."""
        return self._run("vector", states, features)["vectors"][:, :, :m]

    def decode_class_bias(self, states: Floats, features: Ints) -> Floats:
        """States [n, H] -> [n, classes]."""
        return self._run("vector", states, features)["class_bias"]

    def _run(self, name: str, states: Floats, features: Ints, **sizes: Ints) -> dict[str, Floats]:
        feeds: dict[str, Floats | Ints] = {"states": states, "features": features, **sizes}
        return self._sessions[name].run(feeds)
