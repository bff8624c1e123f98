"""The YAML file of a mixture: what it may contain, and how it is read and checked."""
