"""Pictures of a game with what the policy thought: frames with a caption, an animation, a contact sheet."""

import importlib.util
from collections.abc import Sequence
from pathlib import Path

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


def write_video(frames: Sequence[Image.Image], path: Path, frames_per_second: float) -> None:
    """A gif, or an mp4 where imageio-ffmpeg is installed.

    Raises:
        ConfigError: for another kind of file, or an mp4 without the package.
    """
    if path.suffix == ".gif":
        frames[0].save(
            path, save_all=True, append_images=list(frames[1:]), duration=round(1000 / frames_per_second), loop=0
        )
    elif path.suffix == ".mp4":
        if importlib.util.find_spec("imageio_ffmpeg") is None:
            raise ConfigError(
                f"output={path}: mp4 needs the package imageio-ffmpeg (pip install imageio-ffmpeg); or ask for a .gif"
            )
        import imageio_ffmpeg

        width, height = (size - size % 2 for size in frames[0].size)
        writer = imageio_ffmpeg.write_frames(str(path), (width, height), fps=frames_per_second, macro_block_size=2)
        writer.send(None)
        for frame in frames:
            writer.send(np.ascontiguousarray(np.asarray(frame)[:height, :width]))
        writer.close()
    else:
        raise ConfigError(f"output={path}: expected a file that ends in .gif or .mp4")


def contact_sheet(frames: Sequence[Image.Image], columns: int = 4, rows: int = 4) -> Image.Image:
    """Evenly spaced frames side by side, for a quick look."""
    count = min(len(frames), columns * rows)
    chosen = [frames[round(index)] for index in np.linspace(0, len(frames) - 1, count)]
    width, height = chosen[0].size
    sheet = Image.new("RGB", (width * min(columns, count), height * -(-count // columns)), "black")
    for index, frame in enumerate(chosen):
        sheet.paste(frame, (width * (index % columns), height * (index // columns)))
    return sheet
