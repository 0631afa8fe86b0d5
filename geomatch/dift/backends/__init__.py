"""Diffusion models as networks that give activations: one module per kind of model."""
