"""Where the pixels of a GeoTIFF lie on a map."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geomatch.errors import reading, require
from geomatch.geometry import shift_homography
from geomatch.rasters.reading import Raster

_GEOTIFF = (33550, 33922, 34264, 34735, 34736, 34737)  # scale, tie points, matrix, and keys of the map


@dataclass(frozen=True, eq=False, slots=True)
class Georeference:
    """Where pixels lie on a map."""

    crs: str
    """The coordinate reference system of the map as WKT; nothing if the file has none."""
    matrix: NDArray[np.float64]
    """(3, 3) from pixels to the map. These are (u, v) = (x, y) + 0.5, counted from the corner of the first
    pixel, as GDAL does, and not from its centre."""

    def shifted(self, offset: tuple[int, int]) -> "Georeference":
        """That of a canvas whose first pixel lies at the pixel ``offset`` of this one."""
        return Georeference(self.crs, self.matrix @ shift_homography(*offset))


def georeference_of(raster: Raster) -> Georeference | None:
    """Where the pixels of a GeoTIFF lie, turned as the raster is; None for others, which need no rasterio."""
    if not raster.on_map:
        return None
    rasterio = require("rasterio", "geo", "a GeoTIFF as a map")
    with reading(raster.name, "GeoTIFF"), rasterio.open(raster.name) as file:
        crs, matrix = file.crs.to_wkt() if file.crs else "", np.reshape(file.transform, (3, 3))
    corner, right, below = raster.stored(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]) - 0.5) + 0.5
    turn = np.vstack([np.stack([right - corner, below - corner, corner], axis=1), [0.0, 0.0, 1.0]])
    return Georeference(crs, matrix @ turn)


def geotiff_tags(georeference: Georeference) -> list[tuple[int, int, int, Any, bool]]:
    """The tags of a TIFF that say so, for tifffile: those that GDAL writes."""
    import tifffile

    rasterio, io = (require(name, "geo", "a GeoTIFF as a map") for name in ("rasterio", "rasterio.io"))
    made = {"driver": "GTiff", "width": 1, "height": 1, "count": 1, "dtype": "uint8"}
    place = {"crs": georeference.crs or None, "transform": rasterio.Affine(*georeference.matrix[:2].ravel())}
    with io.MemoryFile() as memory:
        memory.open(**made, **place).close()
        with tifffile.TiffFile(memory) as file:
            tags = [tag for tag in file.series[0].keyframe.tags if tag.code in _GEOTIFF]
            return [(tag.code, int(tag.dtype), tag.count, tag.value, True) for tag in tags]
