"""How long large files of records take: to be read, and from a command's start to its first training step."""
