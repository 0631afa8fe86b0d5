"""``python -m geomatch.benchmarks.training OUT``: the whole recipe again."""

from geomatch.benchmarks.training.recipe import train

if __name__ == "__main__":
    train()
