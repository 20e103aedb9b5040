"""The contents of an image or a checkpoint archive, and how it was made."""
