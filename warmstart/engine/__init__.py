"""What runs containers at build time, one file for each engine."""
