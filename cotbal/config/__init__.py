"""What a user may write in a mixture's YAML file, and how it is read and checked."""
