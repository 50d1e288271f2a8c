"""Real images changed: towards other labels or words, or by objects put into them; the rest left as it is and measured."""
