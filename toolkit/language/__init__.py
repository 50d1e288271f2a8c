"""Words: tokens of prompts, and the language of radiology reports."""
