"""Registering many images: sequences, folders, and what is written of them."""
