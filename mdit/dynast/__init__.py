"""DynaST: a picture in the layout of one label with the looks of an exemplar, by dynamic sparse attention."""
