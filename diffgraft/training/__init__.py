"""Parts of a model trained from data sets, and students of few steps taught by their teacher."""
