"""Training on the published benchmarks: the same tug-of-war, another world (`types.World`)."""
