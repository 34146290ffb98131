"""Nodes that only tests use: they look inside the running host, or break something on purpose."""

NODE_CLASS_MAPPINGS = {}
