"""Dense feature maps: sampling, refinement of points, transfer of points."""
