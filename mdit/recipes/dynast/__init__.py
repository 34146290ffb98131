"""What training DynaST needs beside its generator: discriminator, losses, pairs of faces (dynast spec, section 10)."""
