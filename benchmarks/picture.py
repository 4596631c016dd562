"""Make docs/example.webp, which the README shows: ``python -m benchmarks.picture URL``, of an example that runs.

It needs Pillow, and what the tests of clients need: ``make tests/clients/node_modules``, and Chromium. Where the
machine is slow, the picture is faster than what it shows.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

HERE = Path(__file__).parent
PICTURE = HERE.parent / "docs" / "example.webp"
WIDTH = 860
#: Milliseconds that a frame is shown.
LASTS = 180
#: Of WebP, up to 100.
QUALITY = 50


def main(url: str) -> None:
    """Photograph, and put the frames together."""
    with TemporaryDirectory() as folder:
        subprocess.run(("node", HERE / "picture.mjs", url, folder), check=True)
        first, *others = [scaled(Image.open(path)) for path in sorted(Path(folder).iterdir())]
    first.save(PICTURE, save_all=True, append_images=others, duration=LASTS, quality=QUALITY, method=2, loop=0)
    print(f"{PICTURE}: {len(others) + 1} frames, {PICTURE.stat().st_size >> 10} KiB")


def scaled(image: Image.Image) -> Image.Image:
    """A frame as large as the README shows it."""
    return image.convert("RGB").resize((WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    main(sys.argv[1])
