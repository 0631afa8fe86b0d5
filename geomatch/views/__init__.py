"""Pairs seen from very different directions: tilted views of both images, matched and searched together."""
