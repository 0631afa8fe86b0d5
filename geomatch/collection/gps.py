"""Where a photograph was taken, by its EXIF data."""

from pathlib import Path

from PIL import Image as PILImage

_GPS = 0x8825
_LATITUDE, _LONGITUDE = (1, 2), (3, 4)


def position(path: Path) -> tuple[float, float] | None:
    """Latitude and longitude in degrees, north and east positive; None when the file does not say."""
    try:
        with PILImage.open(path) as picture:
            tags = picture.getexif().get_ifd(_GPS)
        return _degrees(tags, *_LATITUDE, "S"), _degrees(tags, *_LONGITUDE, "W")
    except Exception:  # damaged tags are as good as none
        return None


def _degrees(tags: dict[int, object], reference: int, value: int, negative: str) -> float:
    degrees, minutes, seconds = (float(part) for part in tags[value])  # type: ignore[attr-defined]
    angle = degrees + minutes / 60 + seconds / 3600
    if not abs(angle) <= 180:
        raise ValueError("no angle")
    return -angle if str(tags.get(reference, "")).strip("\0 ").upper() == negative else angle
