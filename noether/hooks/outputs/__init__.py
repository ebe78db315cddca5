"""What the model gives, for people to look at: outputs, predictions, images, texts."""

from noether.hooks.outputs.images import images
from noether.hooks.outputs.predictions import predictions
from noether.hooks.outputs.text import text_samples
from noether.hooks.outputs.track import track_outputs

__all__ = ["images", "predictions", "text_samples", "track_outputs"]
