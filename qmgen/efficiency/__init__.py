"""The same work in fewer bits: number formats, scaling, and what is trained with them.

Start at `formats` for what a format is, and at `quantise` for what is done with one.
"""
