"""Files of images and of their masks, and how they are read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from geomatch.errors import ImageError
from geomatch.files import digest_of, sha256_of
from geomatch.images.image import Image
from geomatch.images.loading import load_image, raw_size
from geomatch.images.values import CONVERSION, Conversion


@dataclass(frozen=True, slots=True)
class ImageFile:
    """An image file and how it is read, see `load_image`."""

    path: Path
    mask: Path | None = None
    ignore_border: int = 0
    apply_exif: bool = True
    conversion: Conversion = CONVERSION

    def load(self) -> Image:
        """The image with its mask; ImageError when it cannot be read."""
        return load_image(
            self.path, apply_exif=self.apply_exif, conversion=self.conversion, mask=self.mask,
            ignore_border=self.ignore_border,
        )  # fmt: skip

    def checksum(self) -> str:
        """Checksum of the file, and of what is masked; OSError when it cannot be read."""
        own = sha256_of(self.path)
        if self.mask is None and not self.ignore_border:
            return own
        return digest_of([own, self.mask and sha256_of(self.mask), self.ignore_border])

    def pixels(self) -> int:
        """How many pixels the file has, of a pipe 0; ImageError when it cannot be read."""
        if self.path.exists() and not self.path.is_file():
            return 0
        width, height = raw_size(self.path)
        return width * height


@dataclass(frozen=True, slots=True)
class Masks:
    """What is left out of each image of a folder or list; ImageError for a folder that does not exist."""

    folder: Path | None = None
    """Pictures of the images' sizes, as stored, black where no keypoints are wanted. That of ``a/b.jpg`` is
    ``a/b.jpg.png``, as COLMAP has it, or ``a/b.png`` or ``a/b.jpg``; images without one are used whole."""
    ignore_border: int = 0
    """Pixels left out along each side."""

    def __post_init__(self) -> None:
        if self.ignore_border < 0:
            raise ValueError(f"ignore_border must be 0 or more pixels, got {self.ignore_border}")
        if self.folder is not None and not self.folder.is_dir():
            raise ImageError(f"{self.folder}: no such folder of masks")

    def path(self, name: str, image: Path | None = None) -> Path | None:
        """The mask of an image by its path below its folder; None without one. An image is not its own."""
        if self.folder is None:
            return None
        own = self.folder / name.lstrip("/")
        tried = (own.with_name(own.name + ".png"), own.with_suffix(".png"), own)
        image = image and image.resolve()
        return next((path for path in tried if path.is_file() and path.resolve() != image), None)

    def check(self, names: Sequence[str], folder: Path = Path()) -> None:
        """Raise ImageError when there is a mask of none of these images, which lie in ``folder``."""
        if self.folder is not None and not any(self.path(name, folder / name) for name in names):
            raise ImageError(
                f"{self.folder}: no mask of any image there; that of {names[0]} would be {names[0]}.png"
            )


NO_MASKS = Masks()


@dataclass(frozen=True, slots=True)
class Reading:
    """How the files of a folder or list are read."""

    apply_exif: bool = True
    conversion: Conversion = CONVERSION
    masks: Masks = NO_MASKS

    def file(self, path: Path, name: str) -> ImageFile:
        """The file of an image, with the mask that belongs to its name."""
        mask, border = self.masks.path(name, path), self.masks.ignore_border
        return ImageFile(path, mask, border, self.apply_exif, self.conversion)


READING = Reading()
