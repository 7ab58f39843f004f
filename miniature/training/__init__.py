"""How the networks of the miniature are trained from nothing, and what they see."""
