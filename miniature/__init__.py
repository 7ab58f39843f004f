"""The miniature: a drawn portrait world, made from numbers alone, and the small models trained in it.

In `world` a person (`people`) seen in a scene (`scenes`) is drawn (`draw`) and described (`captions`); `dataset` keeps
many of them. These need torch and numpy alone, nothing of the host and nothing of the other rooms. `models` are the
networks, `training` makes them from nothing as `recipes` say, `evaluation` writes the report. `registration` tells the
rooms below of the face `detector`, the model folders, the latents and the base model.
"""
