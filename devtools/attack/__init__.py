"""Attacks on the pack: `python dev.py attack NAME`. Each prints its figures and, at last, one JSON object."""
