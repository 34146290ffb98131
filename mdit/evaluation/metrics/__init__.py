"""Measures of generated faces as spec mditface.md, section 9, defines them.

`distances` and `agreement` are the mathematics, `networks` the feature networks from local files, `scores` both
together over a test set, `attributes` rules that read a render's looks from its pixels.
"""
