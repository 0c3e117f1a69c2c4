"""Outer steps of this library and of its peers, timed in turns."""
