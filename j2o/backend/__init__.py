"""ONNX's side: kernels of onnxruntime as data, files, sessions."""
