"""Projection heads fitted to photographs without labels: in closed form, or trained."""
