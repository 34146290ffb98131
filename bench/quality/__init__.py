"""What the bundled model is measured on and by."""
