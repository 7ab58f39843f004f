"""A drawn portrait world, made from numbers alone, to train small models in.

A person (`people`) seen in a scene (`scenes`) is drawn (`draw`) and described (`captions`); `dataset` keeps many of
them. These need torch and numpy alone, nothing of the host and nothing of the other rooms.
"""
