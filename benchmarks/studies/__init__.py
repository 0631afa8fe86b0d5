"""A study of our own code: the speed and memory of a pair."""
