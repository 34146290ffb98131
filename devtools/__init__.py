"""Helpers of dev.py that run inside its environment; no part of the installed pack."""
