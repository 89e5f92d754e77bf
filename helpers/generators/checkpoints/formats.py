"""The formats of other projects: which reader knows a file's layout."""

from typing import BinaryIO

from helpers.generators import checkpoints
from helpers.generators.checkpoints import official, state_dicts, tensorflow
from helpers.generators.checkpoints.layout import contents_of
from helpers.generators.checkpoints.safe_pickle import Record, shown
from helpers.generators.checkpoints.torch_file import load

OFFICIAL = "official PyTorch pickle (StyleGAN2-ADA/3)"
READERS = {  # names of tensors of which a file has one, its generator and its discriminator, as parts with our names
    "official TensorFlow pickle (StyleGAN1/2)": tensorflow.READER,
    OFFICIAL: official.READER,
    "rosinality .pt (StyleGAN2)": state_dicts.ROSINALITY,
    "StyleGAN .pt (g_mapping)": state_dicts.STYLEGAN1,
    "vanilla .ckpt (CMU 16-726)": state_dicts.VANILLA,
}


def read(file: BinaryIO, kind: str) -> checkpoints.Part:
    """Give the object of a file to the reader that knows its layout. Raises CheckpointError where none does."""
    root = load(file)
    contents = contents_of(root)
    known = [name for name, (markers, *_) in READERS.items() if any(map(contents.network, markers))]
    if not known and isinstance(contents.root, dict) and isinstance(contents.root.get("G_ema"), Record):
        known = [OFFICIAL]
    if not known:
        names = [name for name in root if isinstance(name, str)][:3] if isinstance(root, dict) else []
        found = f"a {root.kind if isinstance(root, Record) else type(root).__name__}"
        found, formats = f"a dict with {', '.join(names)[:40]}" if names else found, ", ".join(READERS)
        raise checkpoints.CheckpointError(f"it holds {found}, which is none of the formats that are read: {formats}.")
    _, generator, discriminator = READERS[known[0]]
    if kind == "discriminator":
        try:
            part = discriminator(contents)
        except checkpoints.UNFIT as error:
            raise checkpoints.NoDiscriminator(shown(str(error), 200)) from error
        if part is None:
            raise checkpoints.NoDiscriminator("")
        return part
    part = generator(contents)
    part.format = known[0]
    return part
