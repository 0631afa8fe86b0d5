"""Examples, each a script: ``python -m geomatch.opencv.examples.find_object``."""
