"""Files as a stranger may make them: how they are made, read with limits, and kept if they break
something."""
