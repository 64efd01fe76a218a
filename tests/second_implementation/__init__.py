"""A second implementation of Parley/1, written after docs/parley.rst and docs/parley.cddl alone.

It shares nothing with gatewayd, not even its CBOR: what the two understand differently, the specification leaves open.
"""
