"""What computes the row pass: one contract (`base`), one list (`registry`), and the backends themselves."""
