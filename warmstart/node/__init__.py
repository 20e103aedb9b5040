"""The embedded node: the tools a host may lack, and a CRI-O of our own for the length of one command."""
