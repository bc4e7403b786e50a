"""The explanation of one tensor on a terminal, and as JSON."""

from __future__ import annotations

import json

from onnx_ghn.explanation import Explanation


def show_explanation(explanation: Explanation, *, output_format: str) -> None:
    """Print an explanation to stdout: one JSON object, or a line for each thing known."""
    facts = explanation.to_json()
    if output_format == "json":
        print(json.dumps(facts, ensure_ascii=False))
        return
    print(facts["name"])
    holder = facts["holder"] + (f" of {facts['source']}" if facts["source"] else "")
    against = facts["against_prediction"]
    value = "with a value" if facts["has_value"] else "without a value"
    rows = [
        ("verdict", "learnable" if facts["learnable"] else "not learnable"),
        ("role", facts["role"]),
        ("reason", facts["reason"]),
        ("marked by exporter", facts["mark"] or "no"),
        ("stored as", f"{facts['dtype']} {_shape(facts['shape'])}, {holder}, {value}"),
        *(("used at", _site(site)) for site in facts["sites"]),
        ("logical shape", _shape(facts["logical_shape"])),
        *(("then stored by", step) for step in facts["layout"]),
        ("fan-in", f"{facts['fan_in']}, gain {facts['gain']:g}"),
        ("groups", f"{facts['groups']}, stacked matrices {facts['blocks']}"),
        ("depth scale", f"{facts['depth_scale']:.4g}, neutral value {facts['neutral']:g}"),
        ("tied to", ", ".join(facts["tied"]) or "nothing"),
        ("GHN node", facts["ghn_node"] or "none"),
        ("prediction", f"not possible: {against}" if against else "possible"),
        ("init would", facts["outcome"]),
    ]
    width = max(len(label) for label, _ in rows)
    for label, text in rows:
        print(f"  {label:<{width}}  {text}")


def _shape(shape: list[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _site(site: dict[str, object]) -> str:
    name = f" {site['node']}" if site["node"] else ""
    return f"input {site['input']} of {site['op']}{name}"
