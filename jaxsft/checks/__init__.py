"""The laws of training, measured on the user's own hardware."""
