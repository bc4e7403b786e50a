"""Times the reference implementation of GHN-3; prints one JSON object a model.

`tools/bench_predict.py --reference DIR` runs this with DIR and what it needs (ppuda, torchvision,
transformers ...) on the module path. Nothing of the reference is part of this project.

Usage: python tools/reference_times.py HIDDEN LAYERS HEADS REPEAT TORCHVISION_MODEL...
"""

from __future__ import annotations

import json
import resource
import sys
import time

import torch
import torchvision
from ghn3.graph import Graph, GraphBatch
from ghn3.nn import GHN3


def main() -> None:
    """Process CPU seconds of one thread: building the graph, and all that comes after."""
    hidden, layers, heads, repeat = map(int, sys.argv[1:5])
    torch.set_num_threads(1)
    network = GHN3(
        max_shape=(hidden, hidden, 16, 16),
        num_classes=1000,
        hid=hidden,
        heads=heads,
        layers=layers,
        weight_norm=True,
        ve=True,
        layernorm=True,
    ).eval()
    for name in sys.argv[5:]:
        runs = []
        for _ in range(repeat):
            model = getattr(torchvision.models, name)(weights=None)
            start = time.process_time()
            graphs = GraphBatch([Graph(model, ve_cutoff=50)], dense=True)
            built = time.process_time()
            with torch.no_grad():
                network(model, graphs=graphs)
            runs.append((built - start, time.process_time() - start))
        row = {
            "model": name,
            "graph": min(graph for graph, _ in runs),
            "total": min(total for _, total in runs),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
