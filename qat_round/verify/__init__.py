"""A file against its model: parity, layer by layer, accuracy of both."""
