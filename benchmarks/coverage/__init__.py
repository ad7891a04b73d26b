"""What becomes integer, and how near the file is to the model."""
