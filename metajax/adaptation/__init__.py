"""Pieces of adaptation that several methods share."""
