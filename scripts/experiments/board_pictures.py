"""Train with the default recipe and with one that pulls, open TensorBoard in Chromium, and photograph what it shows.

python scripts/experiments/board_pictures.py -o docs/tutorials/board
"""

from __future__ import annotations

import argparse
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from rlsd.cli.main import main as rlsd
from rlsd.presets import DEFAULT

#: Pictures by name: the page of TensorBoard that each shows, and pixels of the window.
PAGES = {
    "first-view": ("timeseries", 1440, 1000),
    "custom-scalars": ("custom_scalars", 1440, 1300),
    "images": ("images", 1440, 640),
    "histograms": ("histograms", 1440, 1000),
    "hparams": ("hparams", 2000, 420),
}
RECIPES = (DEFAULT, "snapshot")
#: Milliseconds of the page's own clock, in which it must have drawn everything.
_DRAWING = 30_000
#: Of a PNG in docs/, bytes.
LARGEST = 150_000


def chromium() -> str | None:
    """Return the browser that is installed here, None for none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next((found for found in map(shutil.which, names) if found), None)


def run(argv: Sequence[str]) -> int:
    """Make the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--folder", type=Path, required=True, help="where the pictures go")
    parser.add_argument("-n", type=int, default=50_000, help="environment steps of each run")
    parser.add_argument("--logs", type=Path, help="runs that are there already; trained anew by default")
    options = parser.parse_args(argv)
    browser = chromium()
    if browser is None:
        parser.error("there is no Chromium here: apt-get install chromium")
    with tempfile.TemporaryDirectory() as scratch:
        logs = options.logs or Path(scratch) / "logs"
        for recipe in RECIPES if options.logs is None else ():
            words = ["--env", "CartPole-v1", "-n", str(options.n), "--recipe", recipe, "-f", str(logs)]
            if code := rlsd(["train", *words, "--no-progress"]):
                return code
        options.folder.mkdir(parents=True, exist_ok=True)
        photograph(browser, logs, options.folder, Path(scratch))
    return 0


def photograph(browser: str, logs: Path, folder: Path, scratch: Path) -> None:
    """Serve some runs by TensorBoard, and write a picture of each page into a folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    words = ["--logdir", logs.name, "--port", str(port), "--load_fast=false", "--reload_interval=0"]
    server = subprocess.Popen(
        [sys.executable, "-m", "tensorboard.main", *words], cwd=logs.parent, stderr=subprocess.DEVNULL
    )
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for_runs(address, len(RECIPES))
        for name, (page, width, height) in PAGES.items():
            target = folder / f"{name}.png"
            flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
            # Without WebGL TensorBoard draws its curves as SVG, which are there when the picture is taken.
            flags += ["--disable-3d-apis", f"--window-size={width},{height}", f"--virtual-time-budget={_DRAWING}"]
            flags.append(f"--user-data-dir={scratch / 'profile'}")
            subprocess.run(
                [browser, *flags, f"--screenshot={target}", f"{address}/#{page}"],
                capture_output=True,
                timeout=300,
                check=True,
            )
            _shrink(target)
            print(f"{target}: {target.stat().st_size:,} bytes")
    finally:
        server.terminate()
        server.wait()


def _wait_for_runs(address: str, count: int) -> None:
    """Wait until TensorBoard has read the runs."""
    for _ in range(120):
        try:
            with urllib.request.urlopen(f"{address}/data/plugin/scalars/tags", timeout=10) as answer:
                if len(re.findall(rb'"final/mean_reward"', answer.read())) >= count:
                    return
        except (urllib.error.URLError, OSError):
            pass
        time.sleep(1.0)
    raise TimeoutError(f"TensorBoard showed no {count} runs")


def _shrink(picture: Path) -> None:
    """Write a picture anew with few colors, which is enough for curves on white."""
    from PIL import Image

    with Image.open(picture) as image:
        few = image.convert("RGB").quantize(64, dither=Image.Dither.NONE)
    few.save(picture, optimize=True)


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
