"""What the user asks for: the recipe, read, checked and made into dataclasses."""
