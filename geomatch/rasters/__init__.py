"""Image files at full depth: read in windows, warped block by block, written; with the grids of maps."""
