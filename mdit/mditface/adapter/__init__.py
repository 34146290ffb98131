"""The mask stream as an adapter on the host's SD3, SD3.5 and FLUX models (docs/design/adapters.md)."""
