"""Images from files, arrays and PIL images, as RGB of 8 bits.

Rules:

- A file is read as one of the formats on a list (`geomatch.images.opening.FORMATS`), whatever its name says;
  HEIC needs the extra ``heif``. Pipes are read, too.
- EXIF orientation is applied unless switched off; grey is repeated to RGB; transparency is composited over
  white; palettes are expanded.
- Values of more than 8 bits (integers up to 32 bits, floats) are scaled from their whole range: 0 to 65535,
  say, or 0 to 1 of floats. Those that use less than a quarter of it, and floats beyond [0, 1], are stretched
  between two percentiles of their own (`Conversion.stretch`), and `Image.note` says so.
- Of images with more bands `Conversion.bands` chooses one or three.
- NaN, infinity and GDAL's nodata values are no values: such pixels are filled smoothly from around them.
- CMYK, animated, multi-page, truncated and too large images, and files that are no images, are refused with
  an `ImageError` that names them. Reduced copies and masks in a TIFF, and previews in a JPEG or HEIC, are no
  pages.
"""

from geomatch.images.image import Image, reduce_image, write_png
from geomatch.images.loading import ImageLike, load_image, name_of, open_image, raw_size, stream_images
from geomatch.images.opening import IMAGE_SUFFIXES, MAX_PIXELS, check_image_file
from geomatch.images.source import NO_MASKS, READING, ImageFile, Masks, Reading
from geomatch.images.values import CONVERSION, Conversion, Stretch

__all__ = [
    "CONVERSION", "IMAGE_SUFFIXES", "MAX_PIXELS", "NO_MASKS", "READING", "Conversion", "Image", "ImageFile",
    "ImageLike", "Masks", "Reading", "Stretch", "check_image_file", "load_image", "name_of", "open_image",
    "raw_size", "reduce_image", "stream_images", "write_png",
]  # fmt: skip
