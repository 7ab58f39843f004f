"""Faces: find them, choose among them, align them, mask them and their parts.

`detector` puts the three backends (`mediapipe`, `insightface`, `opencv`) behind one protocol and makes a `Faces` of a
batch of pictures; `search` looks again where a first look finds nothing, `frames` follows faces through a video,
`host_types` speaks the host's FACE_LANDMARKS, BOUNDING_BOX and MASK. `choose` keeps the wanted ones, `align` cuts the
crops the encoders read. `masks` joins the parts from landmarks (`regions`), the head (`headmask`) and face parsing
(`parsing`, `bisenet`) by plane `geometry`; `draw` shows what was found. Nothing here knows a paper's adapter.
"""
