"""What an output folder holds, and how it is written, locked, checked and read again."""
