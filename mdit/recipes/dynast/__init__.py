"""Training DynaST's generator: discriminator, losses, pairs of faces (docs/design/dynast.md, section 10)."""
