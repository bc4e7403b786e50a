"""`onnx-ghn convert`."""

from __future__ import annotations

from pathlib import Path

import click

from onnx_ghn.errors import OptionError


@click.command("convert")
@click.argument("checkpoint", type=click.Path(path_type=Path), required=False)
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="The archive, NAME.pt."
)
@click.option("--from-hub", metavar="NAME", help="Download a published checkpoint: ghn3tm8 ...")
@click.option("--cache", type=click.Path(path_type=Path), help="Cache folder of the downloads.")
@click.option("--offline", is_flag=True, help="Take the download from the cache only.")
@click.option("--force", is_flag=True, help="Overwrite an archive that exists.")
def command(
    checkpoint: Path | None,
    output: Path,
    from_hub: str | None,
    cache: Path | None,
    offline: bool,
    force: bool,
) -> int:
    """Make an archive of a published GHN-2 or GHN-3 CHECKPOINT, for init --hypernet.

    No code of the checkpoint runs: it is read without unpickling anything but tensors, dictionaries
    and plain values. Beside NAME.pt come NAME.safetensors, NAME.json, ONNX models, SHA256SUMS.

    \b
    onnx-ghn convert ghn3tm8.pt -o archives/ghn3-t.pt
    onnx-ghn convert --from-hub ghn3tm8 -o archives/ghn3-t.pt
    onnx-ghn init model.onnx --method ghn --hypernet archives/ghn3-t.pt
    """
    from onnx_ghn.convert.checkpoint import convert_checkpoint
    from onnx_ghn.convert.hub import download

    if (checkpoint is None) == (from_hub is None):
        raise OptionError("give either the path of a checkpoint or --from-hub NAME")
    if output.suffix != ".pt":
        raise OptionError(f"the archive's name must end with .pt, got {output}")
    if output.exists() and not force:
        raise OptionError(f"{output} exists; --force overwrites it")
    if from_hub is not None:
        checkpoint = download(from_hub, cache=cache, offline=offline)
    assert checkpoint is not None
    if output.exists() and output.samefile(checkpoint):
        raise OptionError(f"{output} is the checkpoint itself; choose another name")
    config = convert_checkpoint(checkpoint, output)
    network = config.network
    click.echo(
        f"{output}: {config.provenance['algorithm']}, {network.hidden} wide, "
        f"{network.layers} layer(s), tiles of {network.channels[0]} x {network.channels[1]}, "
        f"{network.classes} classes"
    )
    return 0
