"""inspect --why, inspect --save-plan, init --plan and --role, as a user meets them."""

import json

import onnx
import pytest


@pytest.fixture
def model(squeezenet):
    return squeezenet


def assert_refused(result, *words):
    assert result.returncode == 2, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0]


def test_save_edit_init(model, run):
    path = model.with_name("plan.json")
    made = run("inspect", model, "--method", "classical", "--save-plan", path)
    assert made.returncode == 0, made.stderr
    plan = json.loads(path.read_text())
    first, second, *_ = [e for e in plan["initializers"] if e["role"] == "conv"]
    first["method"] = "xavier"
    second["action"] = "predict"
    second.pop("method")
    path.write_text(json.dumps(plan))
    options = ("--plan", path, "--engine", "onnxruntime", "--format", "json")
    promised = json.loads(run("inspect", model, *options).stdout)
    done = run("init", model, *options)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["initializers"] == promised["initializers"]
    assert str(path) in report["decision"]["reason"]
    entries = {entry["name"]: entry for entry in report["initializers"]}
    assert entries[first["name"]]["method"] == "xavier"
    assert entries[second["name"]]["status"] == "predicted"
    output = model.with_name("squeezenet.init.onnx")
    onnx.checker.check_model(output, full_check=True)
    assert run("inspect", output, "--plan", path).returncode == 0  # the graph is the same


def test_bad_plan_is_one_line_and_exit_2(model, light, run):
    path = model.with_name("plan.json")
    assert run("inspect", model, "--save-plan", path).returncode == 0
    assert_refused(run("inspect", model, "--save-plan", path), "plan.json", "exists")
    other = light / "light_shufflenet.onnx"
    assert_refused(run("inspect", other, "--plan", path), "plan.json", "another model")
    plan = json.loads(path.read_text())
    name = plan["initializers"][0]["name"]
    plan["initializers"][0]["shape"] = [1]
    path.write_text(json.dumps(plan))
    assert_refused(run("init", model, "--plan", path), "plan.json", name, "[1]")
    plan["initializers"][0]["name"] = "renamed"
    path.write_text(json.dumps(plan))
    assert_refused(run("init", model, "--plan", path), "plan.json", "renamed")
    assert sorted(entry.name for entry in model.parent.iterdir()) == [
        "plan.json",
        "squeezenet.onnx",
    ]


def test_role(model, run):
    report = json.loads(run("inspect", model, "--format", "json").stdout)
    name = next(e["name"] for e in report["initializers"] if e["role"] == "bias")
    given = run("inspect", model, "--role", f"{name}=norm_scale", "--format", "json")
    entries = {e["name"]: e for e in json.loads(given.stdout)["initializers"]}
    assert entries[name]["role"] == "norm_scale" and entries[name]["method"] == "constant"
    assert "role is given by --role" in entries[name]["reason"]
    assert_refused(run("init", model, "--role", f"{name}=magic"), "--role", name, "'magic'")
    assert_refused(run("init", model, "--role", "nobody=bias"), "'nobody'")


def test_why(model, run):
    report = json.loads(run("inspect", model, "--method", "ghn", "--format", "json").stdout)
    convolutions = [e for e in report["initializers"] if e["role"] == "conv"]
    for entry in convolutions[:2]:
        shown = run("inspect", model, "--method", "ghn", "--why", entry["name"])
        assert shown.returncode == 0, shown.stderr
        for word in (entry["name"], "conv", "learnable", "input 1 of Conv", "fan-in", "GHN node"):
            assert word in shown.stdout
        assert "possible" in shown.stdout and "predicted (ghn)" in shown.stdout
    facts = json.loads(run("inspect", model, "--why", entry["name"], "--format", "json").stdout)
    assert facts["format"] == 1 and facts["predictable"] is True
    assert facts["sites"][0]["op"] == "Conv" and facts["sites"][0]["input"] == 1
    shape = facts["shape"]
    assert facts["fan_in"] == shape[1] * shape[2] * shape[3]
    assert_refused(run("inspect", model, "--why", "nobody"), "--why", "'nobody'")
    both = run("inspect", model, "--why", "x", "--save-plan", model.with_name("p.json"))
    assert both.returncode == 2 and "--save-plan" in both.stderr
