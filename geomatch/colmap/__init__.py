"""Feeding COLMAP: databases, text and h5 files, and checks."""

from typing import TYPE_CHECKING

from geomatch.lazy import lazy_names

if TYPE_CHECKING:
    from geomatch.colmap.cameras import Cameras as Cameras
    from geomatch.colmap.database import ExportReport as ExportReport
    from geomatch.colmap.database import copy_database as copy_database
    from geomatch.colmap.database import export_database as export_database
    from geomatch.colmap.doctor.check import check_database as check_database
    from geomatch.colmap.formats.convert import read_correspondences as read_correspondences
    from geomatch.colmap.formats.convert import write_correspondences as write_correspondences

__getattr__ = lazy_names(__name__)
