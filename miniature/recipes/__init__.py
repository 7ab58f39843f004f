"""How the miniature's weights were made: one function a part, with the settings and seeds that were used.

Every part reads what the parts before it left in output/miniature and leaves its own there; a part that was stopped
goes on from its checkpoint. `export` puts all of it into miniature/weights.
"""
