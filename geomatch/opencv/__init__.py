"""geomatch for OpenCV scripts: change one line, keep the rest.

`DIFT_create` replaces ``cv2.SIFT_create``, and `findHomography` OpenCV's. Names, arguments and results are
OpenCV's. Wrong arguments raise TypeError or ValueError, not ``cv2.error``.

The objects only look like ``cv2.Feature2D``: subclasses of it written in Python crash the process in every
method that they do not override. Functions of OpenCV that need a true one (``cv2.AffineFeature_create``, say)
refuse ours with a TypeError.

>>> import cv2
>>> from geomatch import bundled_pair
>>> from geomatch.opencv import DIFT_create
>>> image = cv2.imread(str(bundled_pair().image0))
>>> keypoints, descriptors = DIFT_create(nfeatures=100).detectAndCompute(image, None)
>>> len(keypoints), descriptors.shape, descriptors.dtype
(100, (100, 128), dtype('float32'))
"""

from typing import TYPE_CHECKING

from geomatch.lazy import lazy_names
from geomatch.opencv.convert import from_bgr as from_bgr
from geomatch.opencv.convert import from_keypoints as from_keypoints
from geomatch.opencv.convert import to_bgr as to_bgr
from geomatch.opencv.convert import to_dmatches as to_dmatches
from geomatch.opencv.convert import to_homography as to_homography
from geomatch.opencv.convert import to_image_features as to_image_features
from geomatch.opencv.convert import to_keypoints as to_keypoints
from geomatch.opencv.homography import HomographyWarning as HomographyWarning
from geomatch.opencv.homography import estimate_homography as estimate_homography
from geomatch.opencv.homography import findHomography as findHomography

if TYPE_CHECKING:
    from geomatch.opencv.feature2d import DIFT as DIFT
    from geomatch.opencv.feature2d import DIFT_create as DIFT_create
    from geomatch.opencv.feature2d import Feature2D as Feature2D

__getattr__ = lazy_names(__name__)  # these load torch
