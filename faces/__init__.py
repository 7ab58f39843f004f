"""Faces: find them, choose among them, align them, and separate a head from its background.

`detector` puts the three backends (`mediapipe`, `insightface`, `opencv`) behind one protocol and makes a `Faces` of a
batch of pictures; `choose` keeps the wanted ones, `align` cuts the crops the encoders read, `headmask` blackens what
is not head, and `draw` shows what was found. Nothing here knows a paper's networks.
"""
