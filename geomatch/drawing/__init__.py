"""Pictures and files of what was found, and pictures of what the features see."""
