"""Faces cut out of their pictures, painted anew, and put back.

`crop` is what travels in between. `fact_crop` prepares one face as FACT's authors do, edges by `canny`;
`refine` cuts out the faces to be painted anew. `paint` paints them with the host's samplers, `paste` puts them back.
"""
