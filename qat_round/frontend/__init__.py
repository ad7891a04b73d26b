"""From any Keras model to an equal flat graph."""
