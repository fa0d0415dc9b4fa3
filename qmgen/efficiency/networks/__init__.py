"""Architectures that do the same with fewer operations; channels last, any leading batch axes.

`grouped` has the products that they share, `flop_count` what they cost.
"""
