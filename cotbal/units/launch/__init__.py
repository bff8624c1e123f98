"""Starting units as commands of their own: side by side on this machine."""
