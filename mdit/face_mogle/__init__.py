"""Face-MoGLE: a gate mixes twenty pictures of a label map, token by token, into the condition of FLUX.1
(arXiv 2509.00428; docs/design/face-mogle.md)."""
