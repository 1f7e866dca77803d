"""The worker runtime: everything a worker does that is not its provider's business."""
