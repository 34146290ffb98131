"""Measures of generated faces (docs/design/mditface.md, section 9).

`distances` and `agreement` are the mathematics, `networks` the feature networks from local files, `scores` the measures
of a test set by these networks. `attributes` are rules that read a render's attributes from its pixels,
`exemplar_agreement` compares an image's colours with its exemplar's.
"""
