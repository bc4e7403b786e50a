"""Engines run a hypernetwork's five methods on numpy arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from onnx_ghn.errors import ArchiveError

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


class Engine(Protocol):
    """The archive's five methods, as `onnx_ghn.hypernet.model.Hypernetwork` has them.

    What they give for a smaller size is the first part of what they give for a larger one.
    """

    def encode(self, features: Ints, distance: Ints) -> Floats:
        """Features int64[N, F], distance int64[N, N] -> states [N, H]."""
        ...

    def decode_weight(
        self, states: Floats, features: Ints, o: int, i: int, kh: int, kw: int
    ) -> Floats:
        """States [n, H] -> [n, min(o, C0), min(i, C1), kh, kw]."""
        ...

    def decode_class_weight(self, states: Floats, features: Ints, i: int) -> Floats:
        """States [n, H] -> [n, classes, min(i, C1)]."""
        ...

    def decode_vector(self, states: Floats, features: Ints, m: int) -> Floats:
        """States [n, H] -> [n, 2, min(m, M)]: scale and shift."""
        ...

    def decode_class_bias(self, states: Floats, features: Ints) -> Floats:
        """States [n, H] -> [n, classes]."""
        ...


class TorchEngine:
    """Runs a torch module, compiled or not.

    With one thread, the default, results have the same bits on any number of cores.
    """

    def __init__(
        self,
        module: Any,
        threads: int = 1,
        mode: Callable[[], AbstractContextManager[None]] = nullcontext,
        device: str = "cpu",
    ) -> None:
        """Wrap `module`, which has the five methods.

        Args:
            module: A `Hypernetwork`, or one compiled by TorchScript.
            threads: Compute threads.
            mode: Makes a context to run in.
            device: Where the module is.
        """
        self.module = module
        self.threads = threads
        self.mode = mode
        self.device = device

    def encode(self, features: Ints, distance: Ints) -> Floats:
        """See `Engine.encode`."""
        return self._run(self.module.encode, features, distance)

    def decode_weight(
        self, states: Floats, features: Ints, o: int, i: int, kh: int, kw: int
    ) -> Floats:
        """See `Engine.decode_weight`."""
        return self._run(self.module.decode_weight, states, features, o, i, kh, kw)

    def decode_class_weight(self, states: Floats, features: Ints, i: int) -> Floats:
        """See `Engine.decode_class_weight`."""
        return self._run(self.module.decode_class_weight, states, features, i)

    def decode_vector(self, states: Floats, features: Ints, m: int) -> Floats:
        """See `Engine.decode_vector`."""
        return self._run(self.module.decode_vector, states, features, m)

    def decode_class_bias(self, states: Floats, features: Ints) -> Floats:
        """See `Engine.decode_class_bias`."""
        return self._run(self.module.decode_class_bias, states, features)

    def _run(self, method: Any, *arguments: Any) -> Floats:
        import torch

        tensors = [
            torch.from_numpy(a).to(self.device) if isinstance(a, np.ndarray) else a
            for a in arguments
        ]
        # TF32 would round the products of a convolution to ten bits.
        exact = torch.backends.cudnn.flags(allow_tf32=False)
        try:
            with compute_threads(self.threads), torch.inference_mode(), self.mode(), exact:
                return method(*tensors).cpu().numpy()
        except RuntimeError as error:  # TorchScript's message ends in what happened
            reason = str(error).strip().splitlines()[-1]
            raise ArchiveError(
                f"torch can't run the hypernetwork ({reason}): where memory is enough, its archive "
                "is damaged"
            ) from error


@contextmanager
def compute_threads(count: int) -> Iterator[None]:
    """Compute with so many threads, and restore the setting of the process afterwards."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
