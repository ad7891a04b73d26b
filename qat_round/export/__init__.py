"""From a quantized model to files: TFLite, ONNX, float16, C source."""
