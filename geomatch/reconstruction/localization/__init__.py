"""Where photographs were taken, by a model of the place."""
