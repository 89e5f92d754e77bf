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
    profile, animated = b"x" * 40, {"save_all": True, "append_images": [picture().rotate(90)]}
    pngs = [picture(mode) for mode in ("RGB", "RGBA", "P", "L", "LA", "1")]
    tiffs = [(mode, None) for mode in ("RGB", "CMYK", "P")]
    tiffs += [("RGB", "tiff_lzw"), ("RGBA", "tiff_adobe_deflate"), ("RGB", "jpeg"), ("F", None), ("I;16", None)]
    return {
        "png": [encoded(image, "PNG", exif=exif, icc_profile=profile) for image in pngs]
        + [encoded(deep, "PNG"), encoded(picture(), "PNG", **animated)],
        "jpeg": [
            encoded(picture(), "JPEG", exif=exif),
            encoded(picture("L"), "JPEG", progressive=True),
            encoded(picture("CMYK"), "JPEG", icc_profile=profile),
        ],
        "gif": [encoded(picture(), "GIF", transparency=3), encoded(picture(), "GIF", **animated)],
        "webp": [
            encoded(picture(), "WEBP", exif=exif.tobytes()),
            encoded(picture("RGBA"), "WEBP", lossless=True),
            encoded(picture(), "WEBP", **animated),
        ],
        "tiff": [encoded(picture(mode), "TIFF", compression=compression) for mode, compression in tiffs],
        "bmp": [encoded(picture(mode), "BMP") for mode in ("RGB", "P", "1", "RGBA")],
        "ppm": [encoded(picture(mode), "PPM") for mode in ("RGB", "L", "1")],
    }


KINDS = ["png", "jpeg", "gif", "webp", "tiff", "bmp", "ppm"]
NUMBERS = [0, 1, 2, 3, 7, 8, 16, 127, 128, 255, 256, 4096, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1]


def telling(rng, data, at, code):
    """The data with a field at a place, of struct's code such as <H, that has a telling value."""
    size = struct.calcsize(code)
    return data[:at] + struct.pack(code, rng.choice(NUMBERS) % 256**size) + data[at + size :]


def spoil_png(data, rng):
    """Chunks dropped, doubled, swapped, cut or changed, with checksums that fit."""
    at, chunks = 8, []
    while at + 8 <= len(data):
        length = struct.unpack(">I", data[at : at + 4])[0]
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    for _ in range(rng.randint(1, 3)):
        at, other = rng.randrange(len(chunks)), rng.randrange(len(chunks))
        kind, body = chunks[at]
        action = rng.choice(["drop", "double", "swap", "cut", "number", "byte"])
        if action == "drop" and len(chunks) > 1:
            chunks.pop(at)
        elif action == "double":
            chunks.insert(other, (kind, body))
        elif action == "swap":
            chunks[at], chunks[other] = chunks[other], chunks[at]
        elif action == "cut":
            chunks[at] = (kind, body[: rng.randrange(len(body) + 1)])
        else:
            chunks[at] = (kind, spoil_number(body, rng, ">") if action == "number" else spoil_bytes(body, rng))
    return data[:8] + b"".join(chunk(kind, body) for kind, body in chunks)


def spoil_number(data, rng, order):
    """A 16- or 32-bit field takes a telling value."""
    code = order + rng.choice("HI")
    room = len(data) - struct.calcsize(code)
    return data if room < 0 else telling(rng, data, rng.randrange(min(room, 200) + 1), code)


def spoil_bytes(data, rng):
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8]) if out else 0):
        out[rng.randrange(len(out))] = rng.randrange(256)
    return bytes(out)


def spoil_any(data, rng):
    start, end = sorted(rng.randrange(len(data)) for _ in range(2))
    ways = {
        "bytes": lambda: spoil_bytes(data, rng),
        "head": lambda: spoil_bytes(data[:64], rng) + data[64:],  # where headers, tables and tags are
        "cut": lambda: data[:start],
        "splice": lambda: data[:start] + data[end:],
        "number": lambda: spoil_number(data, rng, rng.choice("<>")),
    }
    return ways[rng.choice([*ways, "number"])]()


def spoil_tiff(data, rng):
    """A field of an entry of the first directory takes a telling value."""
    first = struct.unpack("<I", data[4:8])[0]
    count = struct.unpack("<H", data[first : first + 2])[0]
    field, code = rng.choice([(0, "<H"), (2, "<H"), (4, "<I"), (8, "<I")])
    return telling(rng, data, first + 2 + 12 * rng.randrange(count) + field, code)


def spoil_jpeg(data, rng):
    """A byte after a marker: lengths, sizes, tables, EXIF."""
    markers = [at for at in range(len(data) - 20) if data[at] == 0xFF and data[at + 1] not in (0, 0xFF)]
    at = rng.choice(markers) + rng.randrange(1, 20)
    return data[:at] + bytes([rng.choice([0, 1, 8, 255, rng.randrange(256)])]) + data[at + 1 :]


SPOIL = {"png": spoil_png, "tiff": spoil_tiff, "jpeg": spoil_jpeg}


def spoiled(kind, data, rng):
    spoil = SPOIL.get(kind, spoil_any) if rng.random() < 0.7 else spoil_any
    data = spoil(data, rng)
    return spoil_any(data, rng) if data and rng.random() < 0.2 else data
