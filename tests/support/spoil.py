"""Image files of every format, and ways to spoil them that know how the formats are built."""

import io
import struct
import zlib

import numpy as np
import torch
from PIL import Image

from helpers.images import to_uint8


def smooth(side=48, count=1):
    """Colour gradients: what codecs and palettes keep well."""
    ramp = torch.linspace(0, 1, side)
    across, down = ramp[None].expand(side, side), ramp[:, None].expand(side, side)
    image = torch.stack([across, down, (1 - across) * down])
    return torch.stack([image * (1 - index / (2 * count)) for index in range(count)])


def encoded(image, file_format, **options):
    out = io.BytesIO()
    image.save(out, file_format, **options)
    return out.getvalue()


def picture(mode="RGB", side=24):
    """A Pillow image of the mode that is not symmetric."""
    return Image.fromarray(to_uint8(smooth(side))[0]).convert(mode)


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, depth, colour, raw, extra=b""):
    """A PNG from its parts; Pillow cannot write 16-bit colour."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def seeds():
    """Format to whole files of all its kinds."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a title"
    deep = Image.fromarray(np.arange(576, dtype=np.uint16).reshape(24, 24))
    known = {"exif": exif, "icc_profile": b"x" * 40}
    animated = {"save_all": True, "append_images": [picture().rotate(90)]}
    files = {
        "png": [(mode, known) for mode in ("RGB", "RGBA", "P", "L", "LA", "1")] + [("RGB", animated)],
        "jpeg": [("RGB", known), ("L", {"progressive": True}), ("CMYK", known)],
        "gif": [("RGB", {"transparency": 3}), ("RGB", animated)],
        "webp": [("RGB", {"exif": exif.tobytes()}), ("RGBA", {"lossless": True}), ("RGB", animated)],
        "tiff": [(mode, {}) for mode in ("RGB", "CMYK", "P", "F", "I;16")]
        + [("RGB", {"compression": "tiff_lzw"}), ("RGBA", {"compression": "tiff_adobe_deflate"})],
        "bmp": [(mode, {}) for mode in ("RGB", "P", "1", "RGBA")],
        "ppm": [(mode, {}) for mode in ("RGB", "L", "1")],
    }
    made = {kind: [encoded(picture(mode), kind.upper(), **more) for mode, more in of] for kind, of in files.items()}
    return made | {"png": [*made["png"], encoded(deep, "PNG")]}


KINDS = ["png", "jpeg", "gif", "webp", "tiff", "bmp", "ppm"]
NUMBERS = [0, 1, 2, 3, 7, 8, 16, 127, 128, 255, 256, 4096, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1]


def spoil_png(data, rng):
    """Chunks dropped, doubled, moved, cut or changed, with checksums that fit."""
    at, chunks = 8, []
    while at + 8 <= len(data):
        length = struct.unpack(">I", data[at : at + 4])[0]
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(chunks) + 1)
        kind, body = [*chunks, (b"tEXt", b"title\0text")][at]
        cut = body[: rng.randrange(len(body) + 1)]
        body = rng.choice([body, cut, spoil_number(body, rng, ">"), spoil_bytes(body, rng)])
        chunks[at : at + 1] = [(kind, body)] * rng.choice([0, 1, 1, 2])
        if rng.random() < 0.2:
            rng.shuffle(chunks)
    return data[:8] + b"".join(chunk(kind, body) for kind, body in chunks)


def spoil_number(data, rng, order):
    """A 16- or 32-bit field of the first 200 bytes takes a telling value."""
    code = order + rng.choice("HI")
    size = struct.calcsize(code)
    at = rng.randrange(max(1, min(len(data) - size, 200)))
    return data[:at] + struct.pack(code, rng.choice(NUMBERS) % 256**size) + data[at + size :]


def spoil_bytes(data, rng):
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8]) if out else 0):
        out[rng.randrange(len(out))] = rng.randrange(256)
    return bytes(out)


def spoil_any(data, rng):
    start, end = sorted(rng.randrange(len(data)) for _ in range(2))
    ways = [
        lambda: spoil_bytes(data, rng),
        lambda: spoil_bytes(data[:64], rng) + data[64:],  # where headers, tables and tags are
        lambda: data[:start],
        lambda: data[:start] + data[end:],
        lambda: spoil_number(data, rng, rng.choice("<>")),
        lambda: spoil_number(data, rng, rng.choice("<>")),
    ]
    return rng.choice(ways)()


def spoiled(kind, data, rng):
    data = (spoil_png if kind == "png" and rng.random() < 0.7 else spoil_any)(data, rng)
    return spoil_any(data, rng) if data and rng.random() < 0.2 else data
