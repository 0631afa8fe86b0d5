"""Which images show the same place: one descriptor per image, pooled from the diffusion features."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional
from tqdm import tqdm

from geomatch.collection.features import SCHEMA
from geomatch.collection.folder import ImageFolder
from geomatch.dift import DIFTExtractor, FeatureMap
from geomatch.errors import GeomatchError
from geomatch.files import digest_of, load_arrays, save_arrays, sha256_of
from geomatch.identity import identity_of
from geomatch.images import load_image
from geomatch.provenance import versions

KIND = "GlobalDescriptor"


def pool(feature_map: FeatureMap) -> NDArray[np.float32]:
    """(D,) of a whole image: mean and standard deviation of each channel over the cells.

    Every layer's cells are normalised first.
    """
    parts = []
    for layer in feature_map.maps:
        cells = functional.normalize(layer.flatten(1).float(), dim=0)
        for part in (cells.mean(dim=1), cells.std(dim=1, unbiased=False)):
            parts.append(part)
    return torch.cat(parts).cpu().numpy()


def global_descriptors(
    folder: ImageFolder, extractor: DIFTExtractor, cache: Path, progress: bool = True
) -> NDArray[np.float32]:
    """(N, D) pooled features of the images, each made once and kept in ``cache``."""
    cache.mkdir(parents=True, exist_ok=True)
    settings = ["pooled", identity_of(extractor), versions()]
    rows = []
    for name in tqdm(folder.names, desc="retrieval", unit="image", disable=None if progress else True):
        path = folder.path(name)
        kept = cache / f"{digest_of([SCHEMA, sha256_of(path), *settings])}.npz"
        try:
            row = load_arrays(kept, KIND, ("row",))["row"]
        except GeomatchError:
            row = pool(extractor.dense(load_image(path, apply_exif=False)))
            save_arrays(kept, KIND, {"row": row})
        rows.append(row)
    return np.stack(rows)


def comparable(rows: NDArray[np.floating]) -> NDArray[np.float32]:
    """(N, D) unit rows whose products say how alike images are, after what all share is taken away.

    Channels are centred and divided by their deviation over the collection: features that all
    photographs have say nothing about which belong together.
    """
    centred = rows.astype(np.float64) - rows.mean(axis=0)
    centred /= np.maximum(centred.std(axis=0), 1e-12)
    norms = np.linalg.norm(centred, axis=1, keepdims=True)
    unit: NDArray[np.float32] = (centred / np.maximum(norms, 1e-12)).astype(np.float32)
    return unit
