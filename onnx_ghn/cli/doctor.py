"""`onnx-ghn doctor`."""

from __future__ import annotations

import json

import click

from onnx_ghn.cli import EXIT_FINDING
from onnx_ghn.cli.options import format_option


@click.command("doctor")
@format_option
def command(output_format: str) -> int:
    """Check the installation: versions, ONNX Runtime and its providers, devices, archive.

    Runs a tiny model on each provider. Exit code 1 where something does not work; the line says
    how to repair it.
    """
    from rich.console import Console
    from rich.markup import escape

    from onnx_ghn.diagnosis import diagnose

    diagnosis = diagnose()
    if output_format == "json":
        print(json.dumps(diagnosis.to_json(), ensure_ascii=False))
    else:
        console = Console(highlight=False)
        versions = (
            f"{name} {version or 'not installed'}" for name, version in diagnosis.versions.items()
        )
        lines = [
            f"versions: {', '.join(versions)}",
            f"providers: {', '.join(diagnosis.providers) or 'none'}",
            f"CUDA devices of torch: {', '.join(diagnosis.devices) or 'none'}",
        ]
        for line in lines:
            console.print(escape(line), soft_wrap=True)
        for check in diagnosis.checks:
            mark = "[green]ok[/]  " if check.ok else "[red]FAIL[/]"
            console.print(f"{mark} {escape(f'{check.name}: {check.detail}')}", soft_wrap=True)
    return 0 if diagnosis.ok else EXIT_FINDING
