"""The mathematics of the pack, one folder a system."""
