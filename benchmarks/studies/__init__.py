"""A study of our own code: the speed of a pair."""
