"""The formats of other projects: which reader knows a file's layout."""

from collections.abc import Callable
from typing import BinaryIO

from helpers.generators.checkpoints import Checkpoint, CheckpointError, Part, official, state_dicts, tensorflow
from helpers.generators.checkpoints.layout import Contents, contents_of
from helpers.generators.checkpoints.torch_file import load
from helpers.generators.checkpoints.values import Record
from helpers.weights import WeightsError

READERS = {  # whether a file has the format, its generator and its discriminator, as parts with our names
    "official PyTorch pickle (StyleGAN2-ADA/3)": official.READER,
    "official TensorFlow pickle (StyleGAN1/2)": tensorflow.READER,
    "rosinality .pt (StyleGAN2)": state_dicts.ROSINALITY,
    "StyleGAN .pt (g_mapping)": state_dicts.STYLEGAN1,
    "vanilla .ckpt (CMU 16-726)": state_dicts.VANILLA,
}


def read(file: BinaryIO, wanted: tuple[str, ...]) -> Checkpoint:
    """Give the object of a file to the reader that knows its layout."""
    root = load(file)
    contents = contents_of(root)
    for name, (matches, generator, discriminator) in READERS.items():
        if matches(contents):
            checkpoint = Checkpoint(name)
            if "generator" in wanted:
                checkpoint.generator = _part(generator, contents)
            try:
                checkpoint.discriminator = _part(discriminator, contents) if "discriminator" in wanted else None
            except WeightsError as error:
                checkpoint.refused = str(error)
            return checkpoint
    names = [name for name in root if isinstance(name, str)][:3] if isinstance(root, dict) else []
    kind = root.kind if isinstance(root, Record) else type(root).__name__
    found = f"a dict with {', '.join(names)[:40]}" if names else f"a {kind}"
    raise CheckpointError(f"it holds {found}, which is none of the formats that are read: {', '.join(READERS)}.")


def _part(read: Callable[[Contents], Part | None], contents: Contents) -> Part | None:
    try:
        return read(contents)
    except WeightsError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError) as error:
        raise CheckpointError("it is damaged: its parts are not what this format has.") from error
