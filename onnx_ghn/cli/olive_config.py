"""`onnx-ghn olive-config`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from onnx_ghn.errors import OutputError


@click.command("olive-config")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=None,
    help="Where to write it.  [default: standard output]",
)
@click.option("--force", is_flag=True, help="Overwrite an output that exists.")
def command(output: Path | None, force: bool) -> int:
    """Write the package config by which Olive finds the pass OnnxGhnInit.

    Olive takes such a file in place of its own registry of passes. So it holds that of the
    installed Olive, and one more entry. Make it anew when Olive is updated.

    \b
    onnx-ghn olive-config -o package.json
    olive run --config workflow.json --package-config package.json
    """
    from onnx_ghn.integrations.olive_registry import package_config

    text = json.dumps(package_config(), indent=2, ensure_ascii=False) + "\n"
    if output is None:
        print(text, end="")
        return 0
    from onnx_ghn.model_io.atomic import write_whole
    from onnx_ghn.model_io.target import check_output

    check_output(output, force=force)
    try:
        write_whole(output, text.encode(), overwrite=force)
    except OSError as error:
        raise OutputError(f"can't write {output}: {error.strerror or error}") from error
    return 0
