"""The embedded node: tools that the host may lack, and a CRI-O instance that runs for one command."""
