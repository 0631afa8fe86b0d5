"""Pictures of what was found and of what the features see."""
