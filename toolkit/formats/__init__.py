"""File formats: each module reads a folder of files into Examples and writes Examples back into such files."""
