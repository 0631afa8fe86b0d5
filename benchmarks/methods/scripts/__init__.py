"""Files that run in other environments, without geomatch."""
