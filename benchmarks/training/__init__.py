"""How the embedded model and detector were made: images and trainings."""
