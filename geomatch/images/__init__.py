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

from geomatch.images.image import Image as Image
from geomatch.images.image import reduce_image as reduce_image
from geomatch.images.image import write_png as write_png
from geomatch.images.loading import ImageLike as ImageLike
from geomatch.images.loading import load_image as load_image
from geomatch.images.loading import name_of as name_of
from geomatch.images.loading import open_image as open_image
from geomatch.images.loading import raw_size as raw_size
from geomatch.images.loading import stream_images as stream_images
from geomatch.images.opening import IMAGE_SUFFIXES as IMAGE_SUFFIXES
from geomatch.images.opening import MAX_PIXELS as MAX_PIXELS
from geomatch.images.opening import check_image_file as check_image_file
from geomatch.images.source import NO_MASKS as NO_MASKS
from geomatch.images.source import READING as READING
from geomatch.images.source import ImageFile as ImageFile
from geomatch.images.source import Masks as Masks
from geomatch.images.source import Reading as Reading
from geomatch.images.values import CONVERSION as CONVERSION
from geomatch.images.values import Conversion as Conversion
from geomatch.images.values import Stretch as Stretch
