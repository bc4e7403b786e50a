import dataclasses

import click
import pytest
from click.testing import CliRunner

from onnx_ghn import InitializeOptions, OptionError
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
