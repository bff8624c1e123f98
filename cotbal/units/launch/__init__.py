"""Starting units as commands of their own: on this machine, on a Ray cluster, on Slurm."""
