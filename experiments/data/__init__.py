"""From settings to task distributions, a file for every kind of problem."""
