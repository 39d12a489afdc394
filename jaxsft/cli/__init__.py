"""The command line: flags, and the config file that they name."""
