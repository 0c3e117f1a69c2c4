"""Recipes: a method's setting on a kind of problem, a file for every kind."""
