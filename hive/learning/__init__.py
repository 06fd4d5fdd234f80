"""What is learned: vectors, their codecs, and the outer step. Nothing here knows a message."""
