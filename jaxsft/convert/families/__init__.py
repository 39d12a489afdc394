"""Model families: how each config.json is read, and how its tensors lie in the parameter tree."""
