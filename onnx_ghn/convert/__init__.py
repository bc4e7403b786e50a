"""Published checkpoints to archives of this tool, without ever running code from a file."""
