"""Picture files of every format, and ways to spoil them that know how the formats are built."""

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


def encoded(picture, file_format, **options):
    out = io.BytesIO()
    picture.save(out, file_format, **options)
    return out.getvalue()


def picture(mode="RGB", side=24):
    """A picture of the mode that is not symmetric."""
    return Image.fromarray(to_uint8(smooth(side))[0]).convert(mode)


def seeds():
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a title"
    frames = [picture().rotate(angle) for angle in (0, 90)]
    animated = {"save_all": True, "append_images": frames[1:]}
    return {
        "png": [
            encoded(picture(mode), "PNG", exif=exif, icc_profile=b"x" * 40)
            for mode in ("RGB", "RGBA", "P", "L", "LA", "1")
        ]
        + [encoded(Image.fromarray(np.arange(576, dtype=np.uint16).reshape(24, 24)), "PNG")]
        + [encoded(frames[0], "PNG", **animated)],
        "jpeg": [
            encoded(picture(), "JPEG", exif=exif),
            encoded(picture("L"), "JPEG", progressive=True),
            encoded(picture("CMYK"), "JPEG", icc_profile=b"x" * 40),
        ],
        "gif": [encoded(picture(), "GIF", transparency=3), encoded(frames[0], "GIF", **animated)],
        "webp": [
            encoded(picture(), "WEBP", exif=exif.tobytes()),
            encoded(picture("RGBA"), "WEBP", lossless=True),
            encoded(frames[0], "WEBP", **animated),
        ],
        "tiff": [
            encoded(picture(mode), "TIFF", compression=compression)
            for mode, compression in [
                ("RGB", None),
                ("CMYK", None),
                ("P", None),
                ("RGB", "tiff_lzw"),
                ("RGBA", "tiff_adobe_deflate"),
                ("RGB", "jpeg"),
                ("F", None),
                ("I;16", None),
            ]
        ],
        "bmp": [encoded(picture(mode), "BMP") for mode in ("RGB", "P", "1", "RGBA")],
        "ppm": [encoded(picture(mode), "PPM") for mode in ("RGB", "L", "1")],
    }


NUMBERS = [0, 1, 2, 3, 7, 8, 16, 127, 128, 255, 256, 4096, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1]


KINDS = ["png", "jpeg", "gif", "webp", "tiff", "bmp", "ppm"]


def png_chunks(data):
    at, chunks = 8, []
    while at + 8 <= len(data):
        length = struct.unpack(">I", data[at : at + 4])[0]
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def spoil_png(data, rng):
    """Chunks dropped, doubled, swapped, cut or changed, with checksums that fit."""
    chunks = png_chunks(data)
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(chunks))
        kind, body = chunks[at]
        action = rng.choice(["drop", "double", "swap", "cut", "number", "byte"])
        if action == "drop" and len(chunks) > 1:
            chunks.pop(at)
        elif action == "double":
            chunks.insert(rng.randrange(len(chunks)), (kind, body))
        elif action == "swap":
            other = rng.randrange(len(chunks))
            chunks[at], chunks[other] = chunks[other], chunks[at]
        elif action == "cut":
            chunks[at] = (kind, body[: rng.randrange(len(body) + 1)])
        else:
            chunks[at] = (kind, spoil_number(body, rng, ">") if action == "number" else spoil_bytes(body, rng))
    parts = [struct.pack(">I", len(b)) + k + b + struct.pack(">I", zlib.crc32(k + b)) for k, b in chunks]
    return data[:8] + b"".join(parts)


def spoil_number(data, rng, order):
    """A 16- or 32-bit field takes a telling value."""
    size, code = rng.choice([(2, "H"), (4, "I")])
    if len(data) < size:
        return data
    at = rng.randrange(0, min(len(data) - size, 200) + 1)
    value = struct.pack(order + code, rng.choice(NUMBERS) % 256**size)
    return data[:at] + value + data[at + size :]


def spoil_bytes(data, rng):
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8]) if out else 0):
        out[rng.randrange(len(out))] = rng.randrange(256)
    return bytes(out)


def spoil_any(data, rng):
    action = rng.choice(["bytes", "head", "cut", "number", "number", "splice"])
    if action == "bytes":
        return spoil_bytes(data, rng)
    if action == "head":  # where headers, tables and tags are
        return spoil_bytes(data[:64], rng) + data[64:]
    if action == "cut":
        return data[: rng.randrange(len(data))]
    if action == "number":
        return spoil_number(data, rng, rng.choice("<>"))
    start, end = sorted(rng.randrange(len(data)) for _ in range(2))
    return data[:start] + data[end:]


def spoil_tiff(data, rng):
    """A field of an entry of the first directory takes a telling value."""
    first = struct.unpack("<I", data[4:8])[0]
    count = struct.unpack("<H", data[first : first + 2])[0]
    at = first + 2 + 12 * rng.randrange(count)
    field, size, code = rng.choice([(0, 2, "H"), (2, 2, "H"), (4, 4, "I"), (8, 4, "I")])
    value = struct.pack("<" + code, rng.choice(NUMBERS) % 256**size)
    return data[: at + field] + value + data[at + field + size :]


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
