"""What the laboratory trains, one file a target."""
