"""HPatches: sequences and their download, protocols by name, and the task that runs methods over them."""
