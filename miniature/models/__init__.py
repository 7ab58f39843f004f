"""The networks of the miniature."""
