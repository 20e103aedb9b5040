"""Runtime hooks of warmstart for Python 3.8 and later. Loaded during a build only."""
