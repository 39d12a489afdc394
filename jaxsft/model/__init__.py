"""The Flax NNX decoder; families are settings, not subclasses."""
