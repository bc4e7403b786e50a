"""The plan as a file that a user may edit: what each float tensor is, and how it is to be set.

    {"format": 1, "model_sha256": "...",
     "initializers": [{"name": "w", "shape": [8, 3], "role": "linear", "action": "fallback",
                       "method": "orthogonal"}]}

`method` is optional, and only weight matrices under `fallback` have a choice of it.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnx_ghn.errors import OptionError, OutputError
from onnx_ghn.fallback import MATRIX_METHODS, MATRIX_ROLES
from onnx_ghn.model_hash import model_sha256
from onnx_ghn.model_io.atomic import write_whole
from onnx_ghn.model_io.regular import read_small
from onnx_ghn.read.parameter import Role
from onnx_ghn.report import Outcome, Status

FORMAT = 1

_KEYS = ("format", "model_sha256", "initializers")
_ENTRY_KEYS = ("name", "shape", "role", "action", "method")


class Action(enum.StrEnum):
    """What is to be done with a tensor."""

    PREDICT = "predict"
    FALLBACK = "fallback"
    KEEP = "keep"


ACTION_OF = {
    Status.PREDICTED: Action.PREDICT,
    Status.FALLBACK: Action.FALLBACK,
    Status.KEPT: Action.KEEP,
    # Statistics are estimated only where they have no value to keep; that is found anew.
    Status.CALIBRATED: Action.KEEP,
}

_METHODS: dict[Action, tuple[str, ...]] = {
    Action.PREDICT: ("ghn",),
    Action.FALLBACK: ("classical", *MATRIX_METHODS),
    Action.KEEP: (),
}


@dataclass(frozen=True)
class Entry:
    """One tensor of a plan file."""

    name: str
    shape: tuple[int, ...]
    role: Role
    action: Action
    method: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The entry under `initializers`."""
        entry = {
            "name": self.name,
            "shape": list(self.shape),
            "role": str(self.role),
            "action": str(self.action),
        }
        return entry if self.method is None else entry | {"method": self.method}


@dataclass(frozen=True)
class PlanFile:
    """What a plan file says, checked by itself but not yet against a model."""

    model_sha256: str
    entries: Mapping[str, Entry]


def save_plan(path: Path, model: ir.Model, outcomes: Iterable[Outcome]) -> None:
    """Write the plan of a model. A file that exists is never overwritten: it may be edited.

    Raises:
        OutputError: The file exists, or can't be written.
    """
    entries: dict[str, Entry] = {}
    for outcome in outcomes:
        role, action = Role(outcome.role), ACTION_OF[outcome.status]
        chosen = action is Action.FALLBACK and role in MATRIX_ROLES
        method = outcome.method if chosen else None
        entries.setdefault(outcome.name, Entry(outcome.name, outcome.shape, role, action, method))
    lines = ",\n".join(
        "  " + json.dumps(entry.to_json(), ensure_ascii=False) for entry in entries.values()
    )
    text = (
        f'{{"format": {FORMAT}, "model_sha256": "{model_sha256(model)}", "initializers": [\n'
        f"{lines}\n]}}\n"
    )
    try:
        write_whole(path, text.encode(), overwrite=False)
    except FileExistsError as error:
        raise OutputError(
            f"{path} exists and may hold edits: choose another name for the plan, or remove it"
        ) from error
    except OSError as error:
        raise OutputError(f"{path}: can't write the plan: {error.strerror or error}") from error


def load_plan(path: Path) -> PlanFile:
    """Read and check a plan file.

    Raises:
        OptionError: It can't be read, or says something that no plan can.
    """
    try:
        content = json.loads(read_small(path))
    except OSError as error:
        raise OptionError(f"{path}: can't read the plan file: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise OptionError(f"{path}: the plan file is not JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("initializers"), list):
        raise OptionError(f"{path}: not a plan file: make one with inspect --save-plan")
    if content.get("format") != FORMAT:
        raise OptionError(
            f"{path}: plan of format {content.get('format')!r}, this version reads {FORMAT}: make "
            "it anew with inspect --save-plan"
        )
    _refuse_unknown(content, _KEYS, str(path))
    entries: dict[str, Entry] = {}
    for number, item in enumerate(content["initializers"]):
        entry = _entry(item, path, number)
        if entry.name in entries:
            raise OptionError(f"{path}: tensor {entry.name!r} is listed twice: remove one entry")
        entries[entry.name] = entry
    return PlanFile(str(content.get("model_sha256")), entries)


def _entry(item: Any, path: Path, number: int) -> Entry:
    name = item.get("name") if isinstance(item, dict) else None
    if not isinstance(name, str):
        raise OptionError(f"{path}: entry {number} of initializers has no name: give it one")
    where = f"{path}: tensor {name!r}"
    _refuse_unknown(item, _ENTRY_KEYS, where)
    shape = item.get("shape")
    if not isinstance(shape, list) or not all(type(size) is int for size in shape):
        raise OptionError(f"{where}: the shape {shape!r} is no list of integers")
    role = _choice(item.get("role"), tuple(Role), f"{where}: unknown role")
    action = Action(_choice(item.get("action"), tuple(Action), f"{where}: unknown action"))
    method = item.get("method")
    if method is not None and method not in _METHODS[action]:
        remedy = f"choose one of {', '.join(_METHODS[action])}, or" if _METHODS[action] else "just"
        raise OptionError(f"{where}: {action} with the method {method!r}: {remedy} leave it out")
    return Entry(name, tuple(shape), Role(role), action, method)


def _choice(value: Any, choices: Sequence[str], complaint: str) -> str:
    if value not in choices:
        raise OptionError(f"{complaint} {value!r}: choose one of {', '.join(choices)}")
    return str(value)


def _refuse_unknown(content: Mapping[str, Any], known: Sequence[str], where: str) -> None:
    unknown = [key for key in content if key not in known]
    if unknown:
        raise OptionError(f"{where}: unknown key {unknown[0]!r}: known are {', '.join(known)}")
