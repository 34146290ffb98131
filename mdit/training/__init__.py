"""The trainer, and the target that ships: adapters. The laboratory's targets are in mdit/recipes."""
