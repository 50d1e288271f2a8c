"""Which text file is of which picture, and which picture without one shows nothing."""
