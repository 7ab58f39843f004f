"""What runs inside the UNet: the algebra of each paper as a pure function, and the object the host calls."""
