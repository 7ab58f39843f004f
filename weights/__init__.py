"""Weight files: which there are, where they lie, how they are read; usable by every room."""
