"""What tasks on pairs of images share: features of both in a frame, matches, and the rows of a unit."""
