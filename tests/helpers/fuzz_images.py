"""Mutated image files: `load_image` reads each, or raises `ImageError`; nothing else may happen.

python tests/helpers/fuzz_images.py [COUNT [SEED]]
"""

import io
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import tifffile
from PIL import Image as PILImage

import geomatch
from geomatch import Conversion, ImageError, load_image
from geomatch.images import raw_size

EXTREMES = (
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x7f\xff\xff\xff",
    b"\x01\0\0\0",
    b"\0\1\0\0",
)


def whole_files() -> dict[str, bytes]:
    """Small files of 16 formats and layouts."""
    rgb = cv2.resize(
        load_image(geomatch.bundled_pair().image0).pixels, (48, 36), interpolation=cv2.INTER_AREA
    )
    picture = PILImage.fromarray(rgb)
    exif = PILImage.Exif()
    exif[0x0112] = 6
    files = {}
    for name, form in {"bmp": "BMP", "gif": "GIF", "jpeg": "JPEG", "png": "PNG", "ppm": "PPM", "webp": "WEBP",
                       "avif": "AVIF", "jpeg2000": "JPEG2000"}.items():  # fmt: skip
        file = io.BytesIO()
        picture.save(file, form, **({"exif": exif} if form in ("JPEG", "PNG", "WEBP") else {}))
        files[name] = file.getvalue()
    file = io.BytesIO()
    picture.convert("L").save(file, "PPM")
    files["pgm"] = file.getvalue()
    files["png 16"] = cv2.imencode(".png", rgb.astype(np.uint16) * 16)[1].tobytes()
    deep = rgb.astype(np.uint16) * 16
    for name, array, options in (
        ("tiff 8", rgb, {"photometric": "rgb", "compression": "deflate", "tile": (16, 16)}),
        ("tiff 16", deep[..., 0], {"photometric": "miniswhite", "rowsperstrip": 7}),
        ("tiff planar", np.moveaxis(deep, 2, 0), {"photometric": "rgb", "planarconfig": "separate"}),
        ("tiff float", rgb.astype(np.float32) + 270, {"photometric": "rgb", "compression": "deflate"}),
        ("tiff bands", np.tile(deep, 2), {"photometric": "minisblack", "planarconfig": "contig",
                                          "extratags": [(42113, 2, 0, "0", True)]}),
    ):  # fmt: skip
        file = io.BytesIO()
        tifffile.imwrite(file, array, **options)
        files[name] = file.getvalue()
    files["tiff lzw"] = cv2.imencode(".tif", deep, [cv2.IMWRITE_TIFF_COMPRESSION, 5])[1].tobytes()
    try:
        import pillow_heif
    except ImportError:
        pass
    else:
        file = io.BytesIO()
        pillow_heif.from_pillow(picture).save(file)
        files["heic"] = file.getvalue()
    files["postscript"] = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 48 36\nshowpage\n"
    files["garbage"] = np.random.default_rng(0).bytes(2000)
    return files


def mutated(data: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    """The file with one to four faults, most of them near its beginning, where headers are."""
    changed = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        end = max(1, min(len(changed), 400) if rng.random() < 0.7 else len(changed))
        at = int(rng.integers(end))
        how = rng.integers(7)
        if how == 0:
            changed[at : at + 1] = bytes([changed[at] ^ (1 << rng.integers(8))]) if changed else b""
        elif how == 1:
            changed[at : at + int(rng.integers(1, 9))] = rng.bytes(int(rng.integers(1, 9)))
        elif how == 2:
            changed[at : at + 4] = EXTREMES[rng.integers(len(EXTREMES))]
        elif how == 3:
            del changed[at : at + int(rng.integers(1, 200))]
        elif how == 4:
            changed[at:at] = rng.bytes(int(rng.integers(1, 200)))
        elif how == 5:
            changed = changed[: int(rng.integers(len(changed) + 1))]
        else:
            start = int(rng.integers(len(other)))
            changed[at:at] = other[start : start + int(rng.integers(1, 400))]
        changed = changed or bytearray(b"\0")
    return bytes(changed)


def fuzz(count: int, seed: int, folder: Path) -> tuple[Counter[str], float]:
    """Read ``count`` mutated files; how many were read and refused, and the longest seconds of one."""
    files = whole_files()
    names, rng = list(files), np.random.default_rng(seed)
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    for number in range(count):
        name = names[number % len(names)]
        data = mutated(files[name], rng, files[names[rng.integers(len(names))]])
        path = folder / f"{number % 50}.jpg"  # names say nothing
        path.write_bytes(data)
        start = time.perf_counter()
        conversion = Conversion(bands=(1,) if number % 5 == 0 else None)
        for read in (partial(load_image, conversion=conversion), raw_size):
            try:
                read(path)
                outcomes["read"] += 1
            except ImageError as error:
                told = str(error)
                outcomes["refused" if "\n" not in told and path.name in told else "unclear"] += 1
            except BaseException:
                print(f"file {number} of seed {seed}, a mutated {name}: {path}", file=sys.stderr)
                raise
        slowest = max(slowest, time.perf_counter() - start)
    return outcomes, slowest


if __name__ == "__main__":
    count, seed = ([int(one) for one in sys.argv[1:]] + [5000, 0][len(sys.argv) - 1 :])[:2]
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        outcomes, slowest = fuzz(count, seed, Path(folder))
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        print(f"{count} files, seed {seed}: {dict(outcomes)}; slowest {slowest:.2f} s; {grown:.0f} MiB more")
