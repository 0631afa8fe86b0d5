"""Registration as people do it: lists of pairs, whole folders onto a reference, sequences."""
