"""Model weights: where they are, how they are fetched, read and converted; failures are a `WeightsError`."""
