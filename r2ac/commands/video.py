"""Pictures of a game with what the policy thought: frames with a caption, an animation, a contact sheet."""

import importlib.util
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from conf.knobs import ConfigError

CAPTION_HEIGHT = 44
MIN_WIDTH = 240


def captioned(picture: np.ndarray, lines: Sequence[str]) -> Image.Image:
    """An RGB picture ``[height, width, 3]`` with lines of text below it, at least wide enough for them."""
    image = Image.fromarray(picture)
    if image.width < MIN_WIDTH:
        factor = -(-MIN_WIDTH // image.width)
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    canvas = Image.new("RGB", (image.width, image.height + CAPTION_HEIGHT), "black")
    canvas.paste(image, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for row, line in enumerate(lines):
        draw.text((6, image.height + 4 + 13 * row), line, fill="white")
    return canvas


def require_writable(path: Path) -> None:
    """Asked before anything is played.

    Raises:
        ConfigError: for another kind of file than gif or mp4, an mp4 without its package, or a folder that is not there.
    """
    if path.suffix not in (".gif", ".mp4"):
        raise ConfigError(f"output={path}: expected a file that ends in .gif or .mp4")
    if path.suffix == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise ConfigError(
            f"output={path}: mp4 needs the package imageio-ffmpeg (pip install imageio-ffmpeg); or ask for a .gif"
        )
    if path.is_dir() or not path.parent.is_dir():
        raise ConfigError(f"output={path}: expected a file in a folder that exists")


def write_video(frames: Iterable[Image.Image], path: Path, frames_per_second: float) -> None:
    """A gif, or an mp4, whose frames are written as they come; see ``require_writable``."""
    following = iter(frames)
    first = next(following)
    if path.suffix == ".gif":
        first.save(path, save_all=True, append_images=following, duration=round(1000 / frames_per_second), loop=0)
        return
    import imageio_ffmpeg

    width, height = (size - size % 2 for size in first.size)  # what the usual codec can do
    rate: Any = frames_per_second  # it takes any number, and says that it wants a whole one
    writer = imageio_ffmpeg.write_frames(str(path), (width, height), fps=rate, macro_block_size=2)
    writer.send(None)
    try:
        for frame in chain([first], following):
            writer.send(np.ascontiguousarray(np.asarray(frame)[:height, :width]))
    finally:
        writer.close()


def evenly_spaced(count: int, length: int) -> list[int]:
    """At most ``count`` positions in a sequence, its first and last among them."""
    return sorted({round(position) for position in np.linspace(0, length - 1, min(count, length)).tolist()})


def contact_sheet(frames: Sequence[Image.Image], columns: int = 4) -> Image.Image:
    """Frames side by side, for a quick look."""
    width, height = frames[0].size
    sheet = Image.new("RGB", (width * min(columns, len(frames)), height * -(-len(frames) // columns)), "black")
    for index, frame in enumerate(frames):
        sheet.paste(frame, (width * (index % columns), height * (index // columns)))
    return sheet
