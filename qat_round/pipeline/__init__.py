"""A recipe file: from a float model and data to trained, exported, checked files."""
