"""One device, many, or many hosts; and what a program costs on them."""
