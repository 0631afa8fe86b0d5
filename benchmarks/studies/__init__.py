"""Studies of our own code: the speed and memory of a pair, and of matching."""
