"""Checks before the dump for problems that would prevent it or the restore, each with a fix."""
