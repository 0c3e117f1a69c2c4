"""The inner loop: how to adapt by gradient, and how to differentiate it."""
