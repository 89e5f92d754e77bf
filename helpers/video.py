"""Write animations, GIF and MP4, and read films."""

import os
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path

import imageio.v2
import imageio.v3
import imageio_ffmpeg
import numpy as np
import torch

from helpers.files import atomic_path
from helpers.images import ImageError, from_uint8, longer_side, to_uint8

FILMS = (".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi")  # suffixes
WATCHABLE = 256  # pixels; frames with a shorter side are enlarged by a whole factor, nearest neighbour
MOST_FPS = {".gif": 50, ".mp4": 120}  # 50: the fastest GIF that browsers play
H264 = {"format": "FFMPEG", "codec": "libx264", "quality": None, "macro_block_size": 1, "ffmpeg_log_level": "quiet"}
H264["output_params"] = ["-crf", "12", "-movflags", "+faststart"]  # near lossless; plays while it loads
H264["output_params"] += ["-vf", "scale=out_color_matrix=bt709:flags=accurate_rnd+full_chroma_int"]  # so tagged

Frames = Iterable[torch.Tensor] | torch.Tensor  # of (B, 3, H, W) in [0, 1], all of one size


def check_fps(fps: float, *suffixes: str) -> None:
    """Raise ImageError for frames per second that one of the suffixes cannot have."""
    most = min(MOST_FPS[suffix] for suffix in suffixes)
    if not 0 < fps <= most:
        kinds = " and ".join(suffix[1:].upper() for suffix in suffixes)
        raise ImageError(f"expected between 0 and {most} frames per second for {kinds} but got {fps:g}")


def write_gif(path: str | os.PathLike, frames: Frames, fps: float = 20) -> None:
    """Write an animation that loops forever, atomically. ImageError for no frames, other sizes, NaN, wrong fps."""
    pixels = list(_frames(path, frames, fps, ".gif"))
    ends = [round(100 * (index + 1) / fps) for index in range(len(pixels))]  # GIF counts hundredths of a second
    durations = [10 * (end - start) for start, end in zip([0, *ends], ends, strict=False)]
    options = {"plugin": "pillow", "loop": 0, "duration": durations if len(durations) > 1 else durations[0]}
    with atomic_path(path) as temporary:
        imageio.v3.imwrite(temporary, np.stack(pixels), extension=".gif", **options)


def write_mp4(path: str | os.PathLike, frames: Frames, fps: float = 30, sound: str | os.PathLike | None = None) -> None:
    """Write a video (H.264, yuv420p) that browsers play, frame by frame, atomically, with the sound of another file."""
    options = H264 | {"output_params": [*H264["output_params"]]}  # imageio adds the sound's to this list
    if sound is not None:
        options |= {"audio_path": str(Path(sound).resolve()), "audio_codec": "aac"}
    with atomic_path(path) as temporary:
        target = str(temporary.resolve())  # ffmpeg takes -x for an option and 12:30 for a protocol
        with closing(imageio.v2.get_writer(target, fps=fps, **options)) as writer:
            for pixels in _frames(path, frames, fps, ".mp4"):
                odd = [(0, side % 2) for side in pixels.shape[:2]]  # the codec needs even sides
                writer.append_data(np.pad(pixels, [*odd, (0, 0)], "edge"))
        try:
            imageio_ffmpeg.count_frames_and_secs(target)
        except RuntimeError:  # its exit code is not passed on
            raise OSError("ffmpeg stopped early; is the disk full?") from None


def read_film(path: str | os.PathLike, size: int) -> tuple[float, bool, Iterator[torch.Tensor]]:
    """Frames per second, whether it has sound, and frames (1, 3, H, W), ``size`` px long, of a film, or ImageError."""
    try:
        reader = imageio.v2.get_reader(Path(path).resolve(), format="FFMPEG")
        facts = reader.get_meta_data()
    except (OSError, ValueError, RuntimeError, IndexError, KeyError) as error:
        raise ImageError(f"expected a film that ffmpeg reads but {path} is not one; save it as MP4") from error
    return facts["fps"], "audio_codec" in facts, (longer_side(from_uint8(frame), size) for frame in reader)


def _frames(path: str | os.PathLike, frames: Frames, fps: float, suffix: str) -> Iterator[np.ndarray]:
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
