"""The target `onnx`: replaced layers as functions whose bodies are standard operators."""
