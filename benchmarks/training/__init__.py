"""How the embedded model and detector were made: images, trainings, model cards."""
