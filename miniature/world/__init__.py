"""The drawn world: its people, their scenes, and how they are drawn and described. Torch and numpy alone."""
