"""Data and measures of the bundled model's quality."""
