"""What can be trained, one file a target; `kinds` lists them."""
