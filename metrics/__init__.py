"""Scores of pictures: is it the person, is it the prompt."""
