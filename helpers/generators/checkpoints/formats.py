"""The formats of other projects: which reader knows a file's layout."""

from __future__ import annotations

from collections.abc import Callable

from helpers.generators.checkpoints import official, rosinality, stylegan1_pt, tensorflow, vanilla
from helpers.generators.checkpoints.layout import Contents, contents_of
from helpers.generators.checkpoints.own import Checkpoint, CheckpointError, Part
from helpers.generators.checkpoints.torch_file import load  # noqa: F401
from helpers.generators.checkpoints.values import Record
from helpers.weights import WeightsError

READERS = (official, tensorflow, rosinality, stylegan1_pt, vanilla)
KNOWN = "official StyleGAN2-ADA/3, StyleGAN1/2 (TensorFlow), rosinality, g_mapping/g_synthesis and vanilla checkpoints"


def interpret(root: object, wanted: tuple[str, ...]) -> Checkpoint:
    """Give the object of a file to the reader that knows its layout."""
    contents = contents_of(root)
    for reader in READERS:
        if reader.matches(contents):
            checkpoint = Checkpoint(reader.FORMAT)
            if "generator" in wanted:
                checkpoint.generator = _part(reader.generator, contents)
            if "discriminator" in wanted:
                try:
                    checkpoint.discriminator = _part(reader.discriminator, contents)
                except WeightsError as error:
                    checkpoint.refused = str(error)
            return checkpoint
    names = [name for name in root if isinstance(name, str)][:3] if isinstance(root, dict) else []
    kind = root.kind if isinstance(root, Record) else type(root).__name__
    found = f"a dict with {', '.join(names)[:80]}" if names else f"a {kind}"
    raise CheckpointError(f"it holds {found}, which is none of the formats that are read: {KNOWN}.")


def _part(read: Callable[[Contents], Part | None], contents: Contents) -> Part | None:
    try:
        return read(contents)
    except WeightsError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise CheckpointError("it is damaged: its parts are not what this format has.") from error
