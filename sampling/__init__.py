"""Sampling of parts of a picture with the host's samplers."""
