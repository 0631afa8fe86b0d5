"""Relative pose: pairs with known cameras and their readers, protocols by name, and the tasks."""
