"""Adapters: what turns identity features into tokens of the base model, and the weights that run inside it."""
