"""The rule of `--method auto`: predict where that is known to do no harm, else start classically.

Fixed rules that need no data. (a) An archive that is untrained, or was never tested for harm, is
not used. (b) Nor is it used for a network in a region where its do-no-harm table says that the
prediction is worse, or far outside everything that was tested. (c) What was predicted must carry a
signal: see `onnx_ghn.signal_check`, and `Initialize`, which applies it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from onnx_ghn.hypernet.config import ArchiveConfig
from onnx_ghn.measures import Measures


@dataclass(frozen=True)
class Judgement:
    """Whether `auto` predicts.

    Attributes:
        predict: What it comes to.
        reason: Why, one clause.
        evidence: What was measured and the thresholds, for the report.
    """

    predict: bool
    reason: str
    evidence: dict[str, Any] = field(default_factory=dict)


def judge(archive: ArchiveConfig | None, network: Measures | None) -> Judgement:
    """Rules (a) and (b).

    Args:
        archive: What the archive says of itself; None where there is none.
        network: The model's measures; None where it has no graph.
    """
    if archive is None or not archive.trained:
        return Judgement(False, "the hypernetwork archive is untrained")
    table = archive.harm
    if table is None:
        return Judgement(
            False,
            "the hypernetwork archive has no do-no-harm table: --method ghn predicts all the same",
        )
    if network is None:
        return Judgement(False, "the model has no graph to compare with what was tested")
    outside = list(table.outside(network))
    worse = [region for region in table.worse if region.holds(network)]
    evidence = {
        "network": network.to_json(),
        "table": table.to_json(),
        "outside": outside,
        "worse": [region.name for region in worse],
    }
    if worse:
        region = min(worse, key=lambda region: region.difference)
        reason = (
            f"predictions were worse for {region.name}: {region.difference:+.3f} "
            f"over {region.networks} network(s)"
        )
    elif outside:
        reason = f"far outside what the archive was tested on: {'; '.join(outside)}"
    else:
        reason = "the model is like those for which the archive's predictions did no harm"
    return Judgement(not worse and not outside, reason, evidence)
