"""`laneway model convert`: a GGUF file as the folder that mlx-lm, vLLM and transformers load."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import click

from broker.errors import EngineUnavailable


@click.group()
def model() -> None:
    """Models of this node: convert."""


@model.command("convert")
@click.argument("source", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.argument("folder", type=click.Path(path_type=Path))
def write_folder(source: Path, folder: Path) -> None:
    """Write the model in the GGUF file SOURCE as the new folder FOLDER.

    Everything is in the file, so nothing is fetched. Weights become float32, which takes four bytes a parameter. The
    folder appears whole or not at all. A lane of the engine mlx does this by itself for a `model_path` that is a GGUF
    file.
    """
    if find_spec("gguf") is None:
        raise EngineUnavailable("a conversion needs the package gguf", mend="pip install 'laneway[mlx]'")
    gguf_folder = import_module("workers.engines.gguf_folder")
    with click.progressbar(length=1, label=source.name, file=sys.stderr) as bar:

        def progress(done: int, of: int) -> None:
            bar.length = of
            bar.update(done - bar.pos)

        gguf_folder.convert(source, folder, progress)
    click.echo(folder)
