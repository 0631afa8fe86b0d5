"""An image file and how it is read."""

from dataclasses import dataclass
from pathlib import Path

from geomatch.files import digest_of, sha256_of
from geomatch.images.image import Image
from geomatch.images.loading import load_image, raw_size
from geomatch.images.masks import NO_MASKS, Masks
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
