"""OCI images: building, layers, annotations, registries."""
