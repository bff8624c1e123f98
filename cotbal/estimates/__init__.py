"""What a schedule will take, before anything runs: memory, disk, time, and the commands of its units."""
