"""What the command tells the shell."""

FOUND, NOT_FOUND, BAD_INPUT, INTERRUPTED, PIPE_CLOSED = 0, 1, 2, 130, 141
