"""Control maps of a label map: depth, normals, lines and the head's mask (docs/design/control-maps.md)."""
