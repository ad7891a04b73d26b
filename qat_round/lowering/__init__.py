"""From a flat graph to a quantized model whose operators TFLite has in integers."""
