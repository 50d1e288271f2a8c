"""The command line: each verb builds its request, hands it down, and says what came of it and what to do next."""
