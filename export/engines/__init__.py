"""TensorRT engines: built on the device, signed and cached."""
