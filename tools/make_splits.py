"""Writes onnx_ghn/architectures/splits.json, the lists of held-out architectures.

Seeds are tried in order. A network is taken unless its graph is in a list already, or its family
has had its share: a list holds about as many of each family.

    python tools/make_splits.py [--count 100]
"""

from __future__ import annotations

import argparse
import json
import math
from collections import Counter

from onnx_ghn.architectures.key import graph_key
from onnx_ghn.architectures.sample import FAMILY, sample
from onnx_ghn.architectures.spaces import SPACES
from onnx_ghn.architectures.splits import FILE, SPLITS

PARTS = {"val": 1_000_000, "test": 2_000_000}
"""First seed that is tried for each list."""
SLACK = 1.1
"""A family may have so many times its equal share."""


def main() -> None:
    """Write the lists."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100, help="Architectures of each list.")
    count = parser.parse_args().count
    taken: set[str] = set()
    lists: dict[str, dict[str, list[tuple[int, str]]]] = {}
    for split, space in SPLITS.items():
        most = math.ceil(SLACK * count / len(SPACES[space].families))
        lists[split] = {}
        for part, seed in PARTS.items():
            entries: list[tuple[int, str]] = []
            families: Counter[str] = Counter()
            while len(entries) < count:
                model = sample(space, seed)
                family, key = model.metadata_props[FAMILY], graph_key(model)
                if key not in taken and families[family] < most:
                    families[family] += 1
                    taken.add(key)
                    entries.append((seed, key))
                seed += 1
            lists[split][part] = entries
            print(split, part, dict(families))
    lines = [
        f'  "{split}": {{\n'
        + ",\n".join(f'    "{part}": {json.dumps(entries)}' for part, entries in parts.items())
        + "\n  }"
        for split, parts in lists.items()
    ]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
