"""Write animations: GIF and MP4."""

import itertools
import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import imageio.v3 as iio
import imageio_ffmpeg
import numpy as np
import torch

from helpers.files import atomic_path
from helpers.images import ImageError, to_uint8

WATCHABLE = 256  # pixels; frames with a shorter side are enlarged
MOST_FPS = {".gif": 50, ".mp4": 120}  # 50: the fastest GIF that browsers play
H264 = ["-crf", "12", "-movflags", "+faststart"]  # near lossless; plays while it loads
COLOURS = ["-vf", "scale=out_color_matrix=bt709:flags=accurate_rnd+full_chroma_int"]  # tagged: players need not guess

Frames = Iterable[torch.Tensor] | torch.Tensor


def check_fps(fps: float, *suffixes: str) -> None:
    """Raise ImageError for frames per second that one of the suffixes cannot have."""
    most = min(MOST_FPS[suffix] for suffix in suffixes)
    if not 0 < fps <= most:
        kinds = " and ".join(suffix[1:].upper() for suffix in suffixes)
        raise ImageError(f"expected between 0 and {most} frames per second for {kinds} but got {fps:g}")


def write_gif(path: str | os.PathLike, frames: Frames, fps: float = 20) -> None:
    """Write an animation that loops for ever, atomically.

    frames: an iterable of (B, 3, H, W) in [0, 1] of one size, or one such batch; frames with a side below WATCHABLE
    are enlarged by a whole factor, nearest neighbour. fps: at most 50, the fastest that browsers play.
    Raises ImageError for no frames, frames that differ in size, NaN or a wrong suffix, WriteError where it cannot be
    written.
    """
    pixels = list(_frames(path, frames, fps, ".gif"))
    ends = [round(100 * (index + 1) / fps) for index in range(len(pixels))]  # GIF counts hundredths of a second
    durations = [10 * (end - start) for start, end in zip([0, *ends], ends, strict=False)]
    options = {"plugin": "pillow", "loop": 0, "duration": durations if len(durations) > 1 else durations[0]}
    with atomic_path(path) as temporary:
        iio.imwrite(temporary, np.stack(pixels), extension=".gif", **options)


def write_mp4(path: str | os.PathLike, frames: Frames, fps: float = 30) -> None:
    """Write a video (H.264, yuv420p, near lossless) that browsers and slides play, atomically.

    frames: as for write_gif; they are consumed as they are written. Odd sides are padded by one pixel, which the codec
    needs. fps: at most 120.
    Raises ImageError as write_gif does, or where ffmpeg is missing, WriteError where it cannot be written.
    """
    even = (np.pad(p, [(0, p.shape[0] % 2), (0, p.shape[1] % 2), (0, 0)], "edge") for p in _frames(path, frames, fps))
    first = next(even)
    options = {"fps": fps, "codec": "libx264", "quality": None, "macro_block_size": 1, "ffmpeg_log_level": "quiet"}
    with atomic_path(path) as temporary:
        target = str(temporary.resolve())  # ffmpeg takes -x for an option and 12:30 for a protocol
        writer = imageio_ffmpeg.write_frames(target, first.shape[1::-1], output_params=H264 + COLOURS, **options)
        try:
            writer.send(None)
        except RuntimeError:
            raise ImageError("expected ffmpeg for an MP4 but there is none; install imageio-ffmpeg") from None
        with closing(writer):
            for frame in itertools.chain([first], even):
                writer.send(np.ascontiguousarray(frame))
        _check_whole(target)


def _check_whole(path: str) -> None:
    """Raise OSError for a video that ffmpeg left unfinished; its exit code is not passed on."""
    try:
        imageio_ffmpeg.count_frames_and_secs(path)
    except RuntimeError:
        raise OSError("ffmpeg stopped early; is the disk full?") from None


def _frames(path: str | os.PathLike, frames: Frames, fps: float, suffix: str = ".mp4") -> Iterator[np.ndarray]:
    """The frames as uint8 (H, W, 3), one by one, all of one size, enlarged to be watchable; at least one."""
    if Path(path).suffix.lower() != suffix:
        raise ImageError(f"expected a file name ending in {suffix} but got {Path(path).name!r}")
    check_fps(fps, suffix)
    first = None
    for batch in [frames] if isinstance(frames, torch.Tensor) else frames:
        for pixels in to_uint8(batch):
            first = first or pixels.shape
            if pixels.shape != first:
                raise ImageError(f"expected frames of one size but got {first[:2]} and then {pixels.shape[:2]}")
            factor = -(-WATCHABLE // min(first[:2]))
            yield np.broadcast_to(pixels, (*first[:2], 3)).repeat(factor, 0).repeat(factor, 1)
    if first is None:
        raise ImageError("expected at least one frame but got none")
