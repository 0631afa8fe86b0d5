"""Edits painted on one photograph, carried to others."""
