"""First recipes: from the configuration of an image, from manifests, and from the objects of a cluster."""
