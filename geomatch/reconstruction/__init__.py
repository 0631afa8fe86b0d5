"""From a folder of photographs to models of the scene, and what is done with models."""

from typing import TYPE_CHECKING

from geomatch.lazy import lazy_names

if TYPE_CHECKING:
    from geomatch.reconstruction.localization.localizer import Localizer as Localizer
    from geomatch.reconstruction.localization.pose import Localization as Localization
    from geomatch.reconstruction.localization.run import localize as localize
    from geomatch.reconstruction.mapping import Mapping as Mapping
    from geomatch.reconstruction.run import Reconstructed as Reconstructed
    from geomatch.reconstruction.run import reconstruct as reconstruct

__getattr__ = lazy_names(__name__)
