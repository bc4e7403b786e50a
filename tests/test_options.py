import dataclasses

import click
import pytest
from click.testing import CliRunner

from onnx_ghn import InitializeOptions, OptionError, RunOptions
from onnx_ghn.cli.options import collect, options_of


def test_every_option_describes_itself():
    for field in dataclasses.fields(InitializeOptions):
        assert len(field.metadata["help"]) > 20, field.name


@pytest.mark.parametrize(
    ("values", "message"),
    [({"method": "magic"}, "unknown method 'magic'"), ({"seed": -1}, "must not be negative")],
)
def test_wrong_options_are_refused(values, message):
    with pytest.raises(OptionError, match=message):
        InitializeOptions(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"threads": 2**64}, "threads must be from 1 to 1024"),
        ({"threads": 0}, "threads must be from 1 to 1024"),
        ({"batch_size": 0}, "batch size must be at least 1"),
        ({"mean": (1e60,)}, "at most 1e6"),
        ({"std": (1e-60,)}, "at least 1e-6"),
        ({"std": (float("nan"),)}, "finite"),
    ],
)
def test_wrong_ways_to_run_are_refused(values, message):
    with pytest.raises(OptionError, match=message):
        RunOptions(**values)


def test_command_line_and_dataclass_agree():
    @click.command()
    @options_of(InitializeOptions)
    def command(**values):
        click.echo(repr(collect(InitializeOptions, values)))

    runner = CliRunner()
    assert runner.invoke(command, []).output.strip() == repr(InitializeOptions())
    given = ["--method", "kaiming", "--seed", "3", "--include", "a*", "--include", "b"]
    result = runner.invoke(command, given).output.strip()
    assert result == repr(InitializeOptions(method="kaiming", seed=3, include=("a*", "b")))
    assert runner.invoke(command, ["--seed", "-1"]).exit_code == 2
