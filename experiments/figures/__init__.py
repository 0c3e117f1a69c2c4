"""The pictures of runs and comparisons, as PNG files."""
