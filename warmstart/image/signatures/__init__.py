"""Signatures and signed statements of images, in cosign's formats."""
