"""What the user says of single tensors: `--role`, then the plan file, before marks and reader."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from onnx_ghn.errors import OptionError
from onnx_ghn.fallback import MATRIX_ROLES
from onnx_ghn.model_hash import model_sha256
from onnx_ghn.options import InitializeOptions
from onnx_ghn.plan_file import Action, PlanFile, load_plan
from onnx_ghn.read.given import FIXED_ROLES, GivenRole
from onnx_ghn.read.parameter import Parameter, Role
from onnx_ghn.read.reading import Reading, read_model

_GIVEN = (*(role for role in Role if role not in FIXED_ROLES), Role.CONSTANT)
"""Roles that `--role` takes."""


@dataclass(frozen=True)
class Request:
    """What the user says of one tensor.

    Attributes:
        origin: Who says so, for messages: an option or a file.
        action: What to do with it; None: what is done with any tensor of its role.
        method: The initialiser, where the action is `fallback`; None: by role.
        correction: Where the reader was corrected, the clause that says so; else "".
    """

    origin: str = ""
    action: Action | None = None
    method: str | None = None
    correction: str = ""


def read_as_asked(
    model: ir.Model, options: InitializeOptions
) -> tuple[Reading, dict[str, Request]]:
    """Read a model, corrected by what the user says of single tensors.

    A tensor with a `--role` is set as that role asks, whatever the plan file says of it.

    Args:
        model: The model; not changed.
        options: With `roles` and `plan`.

    Returns:
        The reading, its roles corrected, and what to do with the tensors that the user names.

    Raises:
        ModelError: The model can't be followed.
        OptionError: A role or the plan file does not suit the model.
    """
    given: dict[str, GivenRole] = {}
    requests: dict[str, Request] = {}
    plan: PlanFile | None = None
    if options.plan is not None:
        origin = str(options.plan)
        plan = _plan_for(model, options.plan)
        for name, entry in plan.entries.items():
            settable = entry.action is not Action.KEEP
            given[name] = GivenRole(entry.role, origin, settable)
            requests[name] = Request(origin, entry.action, entry.method)
    commanded = dict(_roles(options.roles))
    for name, role in commanded.items():
        given[name] = GivenRole(role, "--role")
        requests[name] = Request("--role")
    if not given:
        return read_model(model), {}
    reading = read_model(model, given)
    _check(reading, given, commanded, plan)
    for parameter in reading.parameters:
        wanted = given.get(parameter.name)
        if wanted is not None and parameter.reason == wanted.reason:
            request = requests[parameter.name]
            requests[parameter.name] = replace(request, correction=wanted.reason)
    return reading, requests


def unknown_tensor(name: str, reading: Reading) -> str:
    """That there is no such tensor, and which may be meant."""
    names = [parameter.name for parameter in reading.parameters]
    close = difflib.get_close_matches(name, names, n=1)
    remedy = f"did you mean {close[0]!r}?" if close else "inspect -v lists them"
    return f"the model has no float tensor {name!r}: {remedy}"


def _plan_for(model: ir.Model, path: Path) -> PlanFile:
    plan = load_plan(path)
    if plan.model_sha256 != model_sha256(model):
        raise OptionError(
            f"{path}: the plan was made for another model: make one for this model with "
            "inspect --save-plan"
        )
    return plan


def _roles(given: Iterable[str]) -> Iterable[tuple[str, Role]]:
    seen: dict[str, str] = {}
    for text in given:
        name, _, role = text.rpartition("=")
        if role not in _GIVEN:
            raise OptionError(
                f"--role {text}: unknown role {role!r}: choose one of {', '.join(_GIVEN)}"
            )
        if seen.setdefault(name, role) != role:
            raise OptionError(f"--role gives tensor {name!r} two roles: {seen[name]} and {role}")
        yield name, Role(role)


def _check(
    reading: Reading,
    given: dict[str, GivenRole],
    commanded: dict[str, Role],
    plan: PlanFile | None,
) -> None:
    """Refuse what is said of tensors that do not exist, or can't be what they are said to be."""
    found: dict[str, list[Parameter]] = {}
    for parameter in reading.parameters:
        found.setdefault(parameter.name, []).append(parameter)
    for name, entry in (plan.entries if plan is not None else {}).items():
        shapes = [parameter.shape for parameter in found.get(name, ())]
        if shapes and entry.shape not in shapes:
            raise OptionError(
                f"{given[name].origin}: tensor {name!r} has the shape {list(shapes[0])}, not "
                f"{list(entry.shape)}: correct the shape, or make the plan anew"
            )
    for name, wanted in given.items():
        if name not in found:
            raise OptionError(f"{wanted.origin}: {unknown_tensor(name, reading)}")
        for parameter in found[name]:
            _check_role(parameter, wanted, commanded.get(name), plan)


def _check_role(
    parameter: Parameter, wanted: GivenRole, commanded: Role | None, plan: PlanFile | None
) -> None:
    role, where = wanted.role, f"{wanted.origin}: tensor {parameter.name!r}"
    changed = parameter.reason == wanted.reason
    if parameter.role is not role:
        raise OptionError(
            f"{where} can't be a {role} ({parameter.reason}): leave it a {parameter.role}"
        )
    if changed and role in MATRIX_ROLES and len(parameter.logical_shape) < 2:
        raise OptionError(
            f"{where} of shape {list(parameter.shape)} can't be a {role}, which has two axes or "
            "more: give it another role"
        )
    entry = None if commanded or plan is None else plan.entries.get(parameter.name)
    if entry is None or entry.action is Action.KEEP:
        return
    if role in (Role.CONSTANT, Role.QUANTIZED):
        raise OptionError(
            f"{where} is a {role}, which no method can set: give it the role that it has, or "
            "make its action 'keep'"
        )
