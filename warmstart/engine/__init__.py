"""The container engines of a build, one file for each."""
