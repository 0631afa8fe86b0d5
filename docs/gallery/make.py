"""Make the pictures of docs/gallery.md: each command of the page is run beside the photographs."""

import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from shutil import copytree

import cv2
from PIL import Image

HERE = Path(__file__).resolve().parent
PAGE = HERE.with_suffix(".md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^geomatch .*", PAGE, re.MULTILINE)
PICTURES = re.findall(r'!\[[^]]*]\(gallery/(\S+) "(.+?)"\)', PAGE)
"""Each with the files that it shows, which are its title on the page."""
BROWSER = ["chromium", "--headless", "--no-sandbox", "--window-size=1000,640", "--virtual-time-budget=3000"]


def shown(file: Path) -> list[Image.Image]:
    """What is seen of a file: of a video three frames, of a page what Chromium draws."""
    if file.suffix == ".mp4":
        video = cv2.VideoCapture(str(file))
        frames = [video.read()[1] for _ in range(int(video.get(cv2.CAP_PROP_FRAME_COUNT)))]
        return [Image.fromarray(frames[place][..., ::-1]) for place in (0, len(frames) // 2, -1)]
    if file.suffix == ".html":
        subprocess.run([*BROWSER, f"--screenshot={file}.png", file.as_uri()], check=True, capture_output=True)
        file = Path(f"{file}.png")
    return [Image.open(file).convert("RGB")]


def save(rows: list[list[Image.Image]], width: int, name: str) -> None:
    """Rows of pictures of equal height, as a JPEG of at most 120 KB where that can be had."""
    heights = [int((width - 10 * len(row)) / sum(one.width / one.height for one in row)) for row in rows]
    sheet, top = Image.new("RGB", (width, sum(heights) + 10 * len(rows)), "white"), 0
    for row, height in zip(rows, heights, strict=True):
        left = 0
        for one in row:
            sheet.paste(
                one.resize((one.width * height // one.height, height), Image.Resampling.LANCZOS), (left, top)
            )
            left += one.width * height // one.height + 10
        top += height + 10
    for quality in range(88, 48, -4):
        sheet.save(HERE / name, quality=quality, optimize=True)
        if (HERE / name).stat().st_size <= 120_000:
            break


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        work = copytree(HERE / "photos", Path(folder) / "photos")
        for command in COMMANDS:
            print(command, flush=True)
            line = [sys.executable, "-m", "geomatch", *shlex.split(command)[1:], "--quiet"]
            if subprocess.run(line, cwd=work, stdout=subprocess.DEVNULL).returncode > 1:  # 1: refused
                sys.exit("failed")
        rows: list[list[Image.Image]] = [[]]
        for name, files in PICTURES:
            parts = [part for file in files.split() for part in shown(work / file)]
            save([parts], 1000 if len(parts) == 1 else 1200, name)
            rows[-1].append(Image.open(HERE / name))
            if sum(one.width / one.height for one in rows[-1]) > 5:
                rows.append([])
    save([row for row in rows if row], 1000, "grid.jpg")
