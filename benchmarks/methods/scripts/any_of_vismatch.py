"""The matchers of vismatch, for ``serve.py``."""

from collections.abc import Callable
from typing import Any

import numpy as np

ORIGIN = {"sift-nn": 0.25} | dict.fromkeys([
    "affine-steerers", "aspanformer", "dedode", "dedode-kornia", "dedode-lightglue", "dedode-subpx", "edm",
    "eloftr", "gim-dkm", "loftr", "matchanything-eloftr", "matchanything-roma", "matchformer", "minima-loftr",
    "minima-roma", "minima-roma-tiny", "minima-xoftr", "redimatch", "redimatch-indoor", "roma", "romav2",
    "se2loftr", "steerers", "tiny-roma", "topicfm", "topicfm-plus", "xoftr",
], 0.5)  # fmt: skip
"""Where matchers of vismatch 1.4 put the centre of the first pixel, if not at (0, 0).

By its sources points scaled from -1 to 1, DeDoDe, LoFTR and its kin put its corner there (of LoMa vismatch
subtracts the half itself). Measured: OpenCV's SIFT, which vismatch calls without ``enable_precise_upscale``.
"""


def load(name: str, max_keypoints: int, device: str) -> Callable[[Any, Any], tuple[Any, Any, Any]]:
    """See ``serve.py``."""
    import vismatch

    model = name.partition(":")[2]
    matcher = vismatch.get_matcher(model, device=device, max_num_keypoints=max_keypoints)
    matcher.skip_ransac = True
    origin = ORIGIN.get(model, 0.0)

    def match(image0: Any, image1: Any) -> tuple[Any, Any, Any]:
        found = matcher(*(np.moveaxis(image, 2, 0).astype(np.float32) / 255 for image in (image0, image1)))
        return found["matched_kpts0"] - origin, found["matched_kpts1"] - origin, found["matched_confidences"]

    match.version = f"vismatch {vismatch.__version__}"  # type: ignore[attr-defined]
    return match
