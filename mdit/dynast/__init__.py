"""DynaST: an image in the layout of one label with the appearance of an exemplar, by dynamic sparse attention."""
