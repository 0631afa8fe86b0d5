"""Projection heads: what turns activations into short descriptors."""
