"""Weights on their way onto a device: read, quantised, put together, shared, with LoRAs on."""
