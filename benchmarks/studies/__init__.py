"""Studies of our own code: speed, memory, and what each part contributes."""
