"""Readers of file systems: bounded, for the build machine, from an image to a FileMap."""
