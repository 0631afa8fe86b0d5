"""Where the pixels of a GeoTIFF lie on a map, and files that place a picture there by control points."""

import os
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import ArrayLike, NDArray

from geomatch.errors import reading, require
from geomatch.files import replacing, write_whole
from geomatch.geometry import shift_homography, warp_points
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

    def to_map(self, points: ArrayLike) -> NDArray[np.float64]:
        """(N, 2) map coordinates of pixels (N, 2), the centre of the first (0, 0)."""
        return warp_points(self.matrix, np.asarray(points, np.float64) + 0.5)


def georeference_of(raster: Raster) -> Georeference | None:
    """Where the pixels of a GeoTIFF lie, in the raster's orientation; None for another image.

    Raises `MissingDependencyError` without rasterio, which is asked for a GeoTIFF only.
    """
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


def write_points(
    path: str | os.PathLike[str], raster: Raster, points: ArrayLike, places: ArrayLike, crs: str
) -> None:
    """Write control points as QGIS's Georeferencer loads them, ``IMAGE.points`` by custom.

    Args:
        path: the file.
        raster: the image that is to be placed.
        points: (K, 2) its pixels.
        places: (K, 2) their map coordinates.
        crs: WKT of the map.

    The image's own coordinates are pixels, counted upwards, or those of its map if it has one.
    """
    own = georeference_of(raster)
    source = raster.stored(points) * (1, -1) + (0.5, -0.5) if own is None else own.to_map(points)
    lines = [f"#CRS: {' '.join(crs.split())}"] if crs else []
    lines += ["mapX,mapY,sourceX,sourceY,enable,dX,dY,residual"]
    lines += [f"{x!r},{y!r},{u!r},{v!r},1,0,0,0" for x, y, u, v in np.hstack([places, source]).tolist()]
    write_whole(path, "\n".join(lines) + "\n")


def write_vrt(
    path: str | os.PathLike[str], raster: Raster, points: ArrayLike, places: ArrayLike, crs: str
) -> None:
    """Write a GDAL virtual dataset: the image with ground control points, for ``gdalwarp``.

    Arguments as of `write_points`. Raises `MissingDependencyError` without rasterio.
    """
    copying = require("rasterio.shutil", "geo", "a virtual dataset")
    with replacing(path) as temporary:
        with reading(raster.name, "image for GDAL"):
            copying.copy(os.path.abspath(raster.name), os.path.abspath(temporary), driver="VRT")
        tree = ElementTree.parse(temporary)
        root = tree.getroot()
        for found in [*root.iterfind("SRS"), *root.iterfind("GeoTransform"), *root.iterfind("GCPList")]:
            root.remove(found)
        gcps = ElementTree.Element("GCPList", Projection=crs)
        for number, row in enumerate(np.hstack([raster.stored(points) + 0.5, places]).tolist(), 1):
            place = dict(zip(("Pixel", "Line", "X", "Y"), map(repr, row), strict=True))
            ElementTree.SubElement(gcps, "GCP", {"Id": str(number), **place, "Z": "0"})
        root.insert(0, gcps)
        tree.write(temporary)
