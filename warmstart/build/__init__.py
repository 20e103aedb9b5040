"""From a recipe to a published image."""
