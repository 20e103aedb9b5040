"""The state of a container as the kernel shows it, before the dump and after a restore."""
