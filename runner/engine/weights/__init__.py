"""Loading weights onto a device: reading, quantising, assembling pipelines, sharing, LoRAs."""
